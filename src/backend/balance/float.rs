//! From whole numbers to floats and back, where estimates need no better.

/// The float nearest to it.
#[expect(clippy::cast_precision_loss, reason = "52 bits are more than any of these counts has")]
pub(crate) fn float(whole: u64) -> f64 {
    whole as f64
}

/// The whole number below it, or the nearest that there is.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` ends at the type's limits")]
pub(crate) fn whole(float: f64) -> u64 {
    float as u64
}
