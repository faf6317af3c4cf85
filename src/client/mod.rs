//! stub
pub mod shell;
/// stub
#[derive(Debug)]
pub struct Error;
/// stub
#[derive(Debug)]
pub struct Client;
impl Client {
    /// stub
    pub async fn connect(_addr: &str) -> Result<Self, Error> {
        Ok(Self)
    }
    /// stub
    pub async fn set(&mut self, _id: &str, _message: &str) -> Result<(), Error> {
        Ok(())
    }
    /// stub
    pub async fn get(&mut self, _id: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
}
