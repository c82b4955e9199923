//! WebSocket by tokio-tungstenite: text messages, echoed.

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async, tungstenite::Message};

use crate::{
    drive::Session,
    net::{Connection, Target},
};

/// Echoes messages until the closing handshake, then closes first, as RFC 6455 wants it.
pub(crate) async fn serve(connection: Connection) -> Result<()> {
    let mut socket = accept_async(connection).await?;
    socket.get_ref().books().requests.increment();
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            let books = socket.get_ref().books();
            books.messages_in.increment();
            books.messages_out.increment();
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// A client that sends text messages.
pub(crate) struct Client(WebSocketStream<Connection>);

impl Session for Client {
    async fn open(target: &Target) -> Result<Self> {
        let connection = target.connect().await?;
        let url = format!("ws://{}/echo", target.address);
        let (socket, _) = client_async(url, connection).await?;
        Ok(Self(socket))
    }

    async fn exchange(&mut self, number: u64) -> Result<()> {
        let message = Message::text(format!("message {number}"));
        self.0.send(message.clone()).await?;
        let answer = self.0.next().await.context("closed instead of an answer")??;
        ensure!(answer == message, "sent {message:?}, got {answer:?}");
        Ok(())
    }

    async fn close(mut self) -> Result<()> {
        self.0.close(None).await?;
        while let Some(message) = self.0.next().await {
            match message? {
                Message::Close(_) => {}
                other => bail!("{other:?} came after the last answer"),
            }
        }
        Ok(())
    }

    async fn reset(self) -> Result<()> {
        Ok(self.0.get_ref().reset_on_drop()?)
    }
}
