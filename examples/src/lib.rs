//! Outputs and engines on Seawall's ledger, small enough to be read in one sitting and to be copied.
//!
//! | file | what it shows |
//! |---|---|
//! | `sqlite` | a sink that is transactional: a batch's name is stored in the same transaction as what the batch writes |
//! | `word_count` | what an engine does with a batch: count its words, and add the counts to a table, once |

pub mod sqlite;
pub mod word_count;
