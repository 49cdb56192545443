//! Any job, and any outcome that a worker may make up.

use super::job::Job;
use super::outcome::{Ended, Outcome};
use super::run::Past;
use super::wasi::Conditions;
use crate::policy::Limits;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use std::time::Duration;

pub(super) fn job(any: &mut Unstructured) -> Result<Job> {
    Ok(Job {
        source: any.arbitrary()?,
        arguments: any.arbitrary()?,
        limits: limits(any)?,
        conditions: conditions(any)?,
    })
}

pub(super) fn limits(any: &mut Unstructured) -> Result<Limits> {
    // Within what a policy may say.
    let kib = |any: &mut Unstructured| Ok(any.int_in_range(0..=16_384_usize)? << any.int_in_range(0..=10)?);
    Ok(Limits {
        wall_ms: any.arbitrary()?,
        cpu_ms: any.arbitrary()?,
        memory_bytes: any.arbitrary()?,
        output_bytes: kib(any)?,
        result_bytes: kib(any)?,
        files: any.arbitrary()?,
        file_bytes: any.arbitrary()?,
        recursion: any.arbitrary()?,
        at_once: any.arbitrary()?,
    })
}

pub(super) fn conditions(any: &mut Unstructured) -> Result<Conditions> {
    let (seed, unix_ns, readings) = (any.arbitrary()?, any.arbitrary()?, any.arbitrary()?);
    Ok(Conditions { seed, unix_ns, readings, again: any.arbitrary()? })
}

pub(super) fn outcome(any: &mut Unstructured) -> Result<Outcome> {
    let ended = [
        Ended::Completed,
        Ended::Raised,
        Ended::Timeout,
        Ended::Memory,
        Ended::Crashed,
        // No worker may say these.
        Ended::Busy,
        Ended::Unavailable,
    ];
    Ok(Outcome {
        ended: *any.choose(&ended)?,
        stdout: any.arbitrary()?,
        stderr: any.arbitrary()?,
        value: any.arbitrary()?,
        error: any.arbitrary()?,
        omitted_bytes: any.arbitrary()?,
        duration: Duration::from_nanos(any.arbitrary()?),
        state_lost: any.arbitrary()?,
        readings: any.arbitrary()?,
        past: Past::New,
    })
}
