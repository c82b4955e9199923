//! WebSocket by tokio-tungstenite: text messages, echoed.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::{
    drive::Session,
    net::{Connection, Target},
};

/// Buffers for small messages: the library's own take 128 KiB of each connection, and there are many of them.
fn small() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(4 << 10)
}

/// Echoes messages until the closing handshake, then closes first, as RFC 6455 wants it.
pub(crate) async fn serve(connection: Connection) -> Result<()> {
    let mut socket = accept_async_with_config(connection, Some(small())).await?;
    socket.get_ref().books().requests.increment();
    loop {
        // Answers to messages that came together go together.
        let message = if let Some(message) = socket.next().now_or_never() {
            message
        } else {
            socket.flush().await?;
            socket.next().await
        };
        let Some(message) = message.transpose()? else { return Ok(()) };
        if message.is_text() || message.is_binary() {
            let books = socket.get_ref().books();
            books.messages_in.increment();
            books.messages_out.increment();
            socket.feed(message).await?;
        }
    }
}

/// A client that sends text messages.
pub(crate) struct Client(WebSocketStream<Connection>);

impl Session for Client {
    async fn open(target: &Target) -> Result<Self> {
        let connection = target.connect().await?;
        let url = format!("ws://{}/echo", target.address);
        let (socket, _) = client_async_with_config(url, connection, Some(small())).await?;
        Ok(Self(socket))
    }

    async fn exchange(&mut self, number: u64) -> Result<()> {
        let message = Message::text(format!("message {number}"));
        self.0.send(message.clone()).await?;
        let answer = self.0.next().await.context("closed instead of an answer")??;
        ensure!(answer == message, "sent {message:?}, got {answer:?}");
        Ok(())
    }

    async fn exchange_many(&mut self, numbers: Range<u64>) -> Result<()> {
        let message = |number| Message::text(format!("message {number}"));
        for number in numbers.clone() {
            self.0.feed(message(number)).await?;
        }
        self.0.flush().await?;
        for number in numbers {
            let answer = self.0.next().await.context("closed instead of an answer")??;
            ensure!(answer == message(number), "expected number {number}, got {answer:?}");
        }
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
