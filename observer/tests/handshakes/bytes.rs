//! What is sent: heads, frames and prefaces, byte by byte.

/// A request that asks for WebSocket.
pub(crate) const UPGRADE: &str = "GET /chat HTTP/1.1\r\n\
    Host: server.example\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// The answer that grants it.
pub(crate) const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A plain request.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: server.example\r\n\r\n";

/// The answer to it.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A TLS 1.2 record with the start of a `ClientHello`.
pub(crate) const CLIENT_HELLO: &[u8] =
    b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03random random random random rando\x00\x00\x02\x13\x01\x01\x00\x00\x00";

/// An upgrade request with these header lines instead of `Upgrade: websocket`.
pub(crate) fn upgrade_with(lines: &str) -> String {
    UPGRADE.replace("Upgrade: websocket\r\n", lines)
}

/// A 101 with these header lines instead of `Upgrade: websocket`.
pub(crate) fn switching_with(lines: &str) -> String {
    SWITCHING.replace("Upgrade: websocket\r\n", lines)
}

/// A complete response with this status line's end and body.
pub(crate) fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The head of such a response alone.
pub(crate) fn response_head(status: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")
}

/// The head of a request with a body.
pub(crate) fn post_head(length: usize) -> String {
    format!("POST /form HTTP/1.1\r\nHost: server.example\r\nContent-Length: {length}\r\n\r\n")
}

/// WebSocket opcodes (RFC 6455 section 5.2).
pub(crate) mod opcode {
    pub(crate) const CONTINUATION: u8 = 0;
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// A WebSocket frame.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) end: bool,
    pub(crate) opcode: u8,
    /// A client's frames are masked.
    pub(crate) masked: bool,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const MASK: [u8; 4] = [0x81, 0x82, 0x0d, 0x0a];
        let mut bytes = vec![u8::from(self.end) << 7 | self.opcode];
        let masked = u8::from(self.masked) << 7;
        match self.payload.len() {
            length @ 0..=125 => bytes.push(masked + length as u8),
            length @ 126..=0xffff => {
                bytes.push(masked + 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(masked + 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend(MASK);
            bytes.extend(
                self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask),
            );
        } else {
            bytes.extend(self.payload);
        }
        bytes
    }
}

/// A server's whole text message.
pub(crate) fn text(payload: &[u8]) -> Vec<u8> {
    Frame { end: true, opcode: opcode::TEXT, masked: false, payload }.bytes()
}

/// A client's whole text message.
pub(crate) fn masked(payload: &[u8]) -> Vec<u8> {
    Frame { end: true, opcode: opcode::TEXT, masked: true, payload }.bytes()
}

/// The HTTP/2 connection preface and empty SETTINGS, as a client starts.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(settings());
    bytes
}

/// Empty SETTINGS, as a server starts.
pub(crate) fn settings() -> Vec<u8> {
    vec![0, 0, 0, 4, 0, 0, 0, 0, 0]
}

/// HEADERS of a gRPC call on stream 1, plain HPACK literals.
pub(crate) fn grpc_call() -> Vec<u8> {
    // :method POST, :scheme http, :path
    let mut block = vec![0x83, 0x86, 0x44, 13];
    block.extend(b"/echo.E/Shout");
    block.extend([0x5f, 16]);
    block.extend(b"application/grpc");
    block.extend(b"\x40\x02te\x08trailers");
    headers(&block)
}

/// HEADERS of a plain request on stream 1: GET https / without more.
pub(crate) fn http2_get() -> Vec<u8> {
    headers(&[0x82, 0x86, 0x84])
}

fn headers(block: &[u8]) -> Vec<u8> {
    // END_HEADERS, stream 1.
    let mut frame = vec![0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1];
    frame.extend(block);
    frame
}
