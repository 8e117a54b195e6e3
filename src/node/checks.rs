//! Limits of configurations.

use std::time::Duration;

use super::error::ReceiverError;

pub(super) fn within(field: &'static str, value: u64, low: u64, high: u64) -> Result<(), ReceiverError> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(ReceiverError::Config { field, problem: format!("is {value}, must be within {low} and {high}") }),
    }
}

pub(super) fn spans(field: &'static str, value: Duration, low: Duration, high: Duration) -> Result<(), ReceiverError> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => {
            Err(ReceiverError::Config { field, problem: format!("is {value:?}, must be within {low:?} and {high:?}") })
        }
    }
}
