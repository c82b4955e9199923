//! Plain TCP: fixed-size binary records, echoed.

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    drive::Session,
    net::{Connection, Target},
};

/// Bytes of a record: a mark, then a big-endian number.
const RECORD: usize = 16;

/// No HTTP method, HTTP/2 preface or TLS record begins like this.
const MARK: [u8; 8] = [0xf5, 0x00, 0x9c, 0xfe, 0x01, 0xff, 0x80, 0x03];

/// Echoes records until the client closes.
pub(crate) async fn serve(mut connection: Connection) -> Result<()> {
    let mut record = [0; RECORD];
    while connection.read_exact(&mut record).await.is_ok() {
        connection.books().messages_in.increment();
        connection.books().messages_out.increment();
        connection.write_all(&record).await?;
    }
    Ok(())
}

/// A client that sends records.
pub(crate) struct Client(Connection);

impl Session for Client {
    async fn open(target: &Target) -> Result<Self> {
        Ok(Self(target.connect().await?))
    }

    async fn exchange(&mut self, number: u64) -> Result<()> {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&MARK);
        record[8..].copy_from_slice(&number.to_be_bytes());
        self.0.write_all(&record).await?;
        let mut answer = [0; RECORD];
        self.0.read_exact(&mut answer).await?;
        ensure!(answer == record, "sent {record:x?}, got {answer:x?}");
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.0.close_silent().await
    }

    async fn reset(self) -> Result<()> {
        Ok(self.0.reset_on_drop()?)
    }
}
