//! stub
/// stub
pub fn stem(id: &crate::types::MessageId) -> String { id.to_string() }
