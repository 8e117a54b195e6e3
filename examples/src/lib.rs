//! Outputs and engines on the ledger.
