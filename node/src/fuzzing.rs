//! The entry for fuzzing what a served queue is asked and answers.

use minicbor::{Decode, Encode};

use crate::served::wire::{QueueAnswer, QueueRequest, durability_of, error_of, verdict_code, verdict_of};

/// Whether `data` is a request to a served queue, or an answer of one.
///
/// # Panics
/// When what was understood does not come out as it went in.
#[must_use]
pub fn served_queue(data: &[u8]) -> bool {
    let request = understood::<QueueRequest>(data);
    if let Some(QueueRequest::Settle { verdict, argument, .. }) = request
        && let Some(verdict) = verdict_of(verdict, argument)
    {
        let (code, argument) = verdict_code(verdict);
        assert_eq!(verdict_of(code, argument), Some(verdict));
    }
    let answer = understood::<QueueAnswer>(data);
    match &answer {
        Some(QueueAnswer::Refused { code, limit }) => drop(error_of(*code, *limit, data.len())),
        Some(QueueAnswer::Stored { durability, .. }) => drop(durability_of(*durability)),
        _ => {}
    }
    request.is_some() || answer.is_some()
}

fn understood<T: for<'b> Decode<'b, ()> + Encode<()>>(data: &[u8]) -> Option<T> {
    let value: T = minicbor::decode(data).ok()?;
    // Strangers may add fields and spell numbers longer; what is written here has one spelling.
    let written = |value: &T| minicbor::to_vec(value).unwrap_or_default();
    let bytes = written(&value);
    assert_eq!(minicbor::decode(&bytes).ok().as_ref().map(written).as_deref(), Some(bytes.as_slice()));
    Some(value)
}
