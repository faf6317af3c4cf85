//! stub
use crate::telemetry::EventRing;
/// stub
pub fn init(_json: bool, _file: Option<&std::path::Path>, _screen: bool, _ring: EventRing) -> anyhow::Result<()> {
    Ok(())
}
