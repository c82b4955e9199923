//! A node with one server: its listener, one connection that it has accepted, the TCP of both, and the books.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use aya_ebpf::{
    bindings::{__sk_buff, args, bpf_sock, bpf_sock_ops, sk},
    host::{self, Program, Socket},
};
use observer_common::{
    counters::Counter,
    label::Direction,
    protocol::{Protocol, websocket::counters as websocket},
    stream::{mode, program},
    wire::{
        conn::Conn,
        kept,
        loss::{LOSSES, Loss},
        slot::{self, RESERVED_SLOTS, SHARE_WORDS, SHARES, SHARES_AT, Slot},
    },
};

use crate::{hooks, maps, stream};

/// Slots of the table.
const SLOTS: u32 = 256;
const SERVER: (u32, u16) = (0x0a00_0001, 8080);
const CLIENT: (u32, u16) = (0x0a00_0002, 40_000);
/// The number of the first byte of each stream: soon to wrap around.
const FIRST: u32 = u32::MAX - 3_000;
const IP: usize = 20;
const TCP: usize = 20;
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_RECV: u32 = 3;
const TCP_LAST_ACK: u32 = 9;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE: u32 = 10;
const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A request for a WebSocket.
pub const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The answer to it.
pub const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLBMxihnOnP9Z2mvPBQ1Zgs0=\r\n\r\n";

/// A binary frame.
#[must_use]
pub fn frame(masked: bool, length: usize) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x82];
    match length {
        0..=125 => frame.push(mask | length as u8),
        126..=0xffff => {
            frame.push(mask + 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask + 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend([0; 4]);
    }
    // A payload that would be taken for the header of a reserved frame.
    frame.resize(frame.len() + length, 0x83);
    frame
}

/// What TCP has of the client's stream, by the offset of its bytes.
#[derive(Debug, Default)]
struct Receiver {
    next: usize,
    /// What came early: from where to where.
    early: BTreeMap<usize, usize>,
    /// Where the stream ends, once its FIN is there.
    end: Option<usize>,
    over: bool,
}

/// The connection at the server.
#[derive(Debug)]
pub struct Connection {
    socket: RefCell<Box<Socket>>,
    receiver: RefCell<Receiver>,
    bytes: Vec<u8>,
    sent: Cell<usize>,
    answered: Cell<bool>,
    /// What leaves does so with the socket locked.
    locked: Cell<bool>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    pub messages: u64,
    pub messages_sent: u64,
    pub invalid: u64,
    pub received: u64,
    pub sent: u64,
    pub desyncs: u64,
    pub websockets: u64,
    pub active: u64,
    pub lost: [u64; LOSSES],
}

impl Books {
    /// Without what was lost.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.lost[Loss::Gap as usize]
    }
}

fn install() {
    let parsers: [(u8, [Program; 3]); 4] = [
        (
            mode::HTTP1,
            [
                stream::parsers::parse_http1,
                stream::parsers::parse_http1_small,
                stream::parsers::parse_http1_large,
            ],
        ),
        (
            mode::HTTP2,
            [
                stream::parsers::parse_http2,
                stream::parsers::parse_http2_small,
                stream::parsers::parse_http2_large,
            ],
        ),
        (
            mode::WEBSOCKET,
            [
                stream::parsers::parse_websocket,
                stream::parsers::parse_ws_small,
                stream::parsers::parse_ws_large,
            ],
        ),
        (
            mode::PROXY,
            [
                stream::parsers::parse_proxy,
                stream::parsers::parse_proxy_small,
                stream::parsers::parse_proxy_large,
            ],
        ),
    ];
    for (mode, [packet, small, large]) in parsers {
        host::install(u32::from(mode), packet);
        host::install(u32::from(mode) + program::OF_SMALL, small);
        host::install(u32::from(mode) + program::OF_LARGE, large);
    }
    host::install(program::KEEP, stream::keep::keep_segment);
    host::install(program::DRAIN, stream::drain::drain_segments);
    host::install(program::ORDER, stream::order::order_segment);
}

/// Room for kept segments.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub entries: usize,
    pub small: usize,
    pub large: usize,
}

impl Room {
    /// As the daemon makes it.
    pub const ALL: Self =
        Self { entries: kept::ENTRIES, small: kept::SMALL_BLOCKS, large: kept::LARGE_BLOCKS };
    /// For a small case.
    pub const SOME: Self = Self { entries: 64, small: 64, large: 8 };
}

impl Connection {
    /// A node that has accepted a connection whose client is going to send `bytes`.
    #[must_use]
    pub fn accepted(room: Room, bytes: Vec<u8>) -> Self {
        let connection = Self::handshake(room, bytes, 0);
        connection.establish(0);
        connection
    }

    /// A node on which the handshake of a connection is done by a segment with the first bytes of its client's stream: the segment
    /// has passed the listener's hook, and the socket is there, but not [established](Self::establish).
    #[must_use]
    pub fn handshake(room: Room, bytes: Vec<u8>, first: usize) -> Self {
        host::reset();
        install();
        host::world(|world| world.now = 1_000_000_000);
        for index in RESERVED_SLOTS..SLOTS {
            maps::FREE.push(index, 0).expect("there is room");
        }
        if let Some(capacity) = maps::TABLE.get_ptr_mut(maps::TABLE_CAPACITY) {
            // SAFETY: a word of a map.
            unsafe { *capacity = u64::from(SLOTS) };
        }
        for index in 1..=room.entries {
            maps::KEPT_FREE.push(index as u32, 0).expect("there is room");
        }
        for index in 1..=room.small {
            maps::SMALL_FREE.push(index as u32, 0).expect("there is room");
        }
        for index in 1..=room.large {
            maps::LARGE_FREE.push(index as u32, 0).expect("there is room");
        }
        let ends = bpf_sock {
            family: 2,
            type_: 1,
            src_ip4: SERVER.0.to_be(),
            src_port: u32::from(SERVER.1),
            dst_ip4: CLIENT.0.to_be(),
            dst_port: CLIENT.1.to_be(),
            state: TCP_LISTEN,
            ..bpf_sock::default()
        };
        let mut listener = Socket::new(ends, 1);
        Self::pass(&raw mut listener, true, FIRST, ACK, &bytes[..first]);
        let mut socket = Box::new(listener.accept(bpf_sock { state: TCP_SYN_RECV, ..ends }, 2));
        socket.tcp.rcv_nxt = FIRST;
        Self {
            socket: RefCell::new(socket),
            receiver: RefCell::default(),
            bytes,
            sent: Cell::default(),
            answered: Cell::default(),
            locked: Cell::default(),
        }
    }

    /// The socket is established, and TCP takes the bytes of the segment that has done that.
    pub fn establish(&self, first: usize) {
        self.callback(PASSIVE_ESTABLISHED, [0; 4]);
        host::point();
        // SAFETY: the socket lives as long as the connection.
        unsafe { (*self.socket()).sock.state = TCP_ESTABLISHED };
        if first != 0 {
            self.take(0, first, false);
            self.react(true);
        }
    }

    fn socket(&self) -> *mut Socket {
        &raw mut **self.socket.borrow_mut()
    }

    /// A segment passes the hook of a socket.
    fn pass(socket: *mut Socket, ingress: bool, seq: u32, flags: u8, payload: &[u8]) {
        let mut packet = vec![0_u8; IP + TCP];
        packet[0] = 0x45;
        packet[9] = 6;
        let ((from, from_port), (to, to_port)) =
            if ingress { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        packet[12..16].copy_from_slice(&from.to_be_bytes());
        packet[16..20].copy_from_slice(&to.to_be_bytes());
        packet[IP..IP + 2].copy_from_slice(&from_port.to_be_bytes());
        packet[IP + 2..IP + 4].copy_from_slice(&to_port.to_be_bytes());
        packet[IP + 4..IP + 8].copy_from_slice(&seq.to_be_bytes());
        packet[IP + 12] = 5 << 4;
        packet[IP + 13] = flags;
        packet.extend(payload);
        let data = packet.as_ptr().expose_provenance() as u64;
        let mut skb = __sk_buff {
            len: packet.len() as u32,
            ifindex: 2,
            cb: [0; 5],
            data,
            data_end: data + packet.len() as u64,
            __bindgen_anon_2: sk { sk: socket.cast() },
        };
        let program: Program =
            if ingress { hooks::segment::segment_in } else { hooks::segment::segment_out };
        host::run(program, &mut skb);
    }

    fn callback(&self, op: u32, arguments: [u32; 4]) {
        let received = {
            let receiver = self.receiver.borrow();
            receiver.next as u64 + u64::from(receiver.over)
        };
        let mut ops = bpf_sock_ops {
            op,
            __bindgen_anon_1: args { args: arguments },
            family: 2,
            remote_ip4: CLIENT.0.to_be(),
            remote_ip6: [0; 4],
            remote_port: u32::from(CLIENT.1.to_be()) << 16,
            bpf_sock_ops_cb_flags: 0,
            packets_out: 0,
            rcv_nxt: FIRST.wrapping_add(received as u32),
            bytes_received: received,
            __bindgen_anon_2: sk { sk: self.socket().cast() },
        };
        hooks::callbacks::socket_callback(&raw mut ops);
    }

    /// A segment of the client's arrives: bytes `from..to` of its stream, perhaps with the FIN behind the last. `acknowledge`:
    /// TCP does so at once.
    pub fn deliver(&self, from: usize, to: usize, acknowledge: bool) {
        let fin = to > self.bytes.len();
        let to = to.min(self.bytes.len());
        let flags = if fin { ACK | PSH | FIN } else { ACK | PSH };
        Self::pass(
            self.socket(),
            true,
            FIRST.wrapping_add(from as u32),
            flags,
            &self.bytes[from..to],
        );
        host::point();
        self.take(from, to, fin);
        self.react(acknowledge);
    }

    fn react(&self, acknowledge: bool) {
        // As the program would that reads it.
        let complete = self.receiver.borrow().next >= REQUEST.len();
        if complete && !self.answered.replace(true) {
            self.send(SWITCHING);
        } else if acknowledge {
            self.acknowledge();
        }
    }

    fn take(&self, from: usize, to: usize, fin: bool) {
        let mut receiver = self.receiver.borrow_mut();
        if fin {
            receiver.end = Some(to);
        }
        let known = receiver.early.entry(from).or_default();
        *known = to.max(*known);
        while let Some((from, to)) = receiver.early.pop_first() {
            if from > receiver.next {
                receiver.early.insert(from, to);
                break;
            }
            receiver.next = receiver.next.max(to);
        }
        receiver.over = receiver.end == Some(receiver.next);
        let next = receiver.next as u32 + u32::from(receiver.over);
        // SAFETY: the socket lives as long as the connection.
        unsafe { (*self.socket()).tcp.rcv_nxt = FIRST.wrapping_add(next) };
    }

    /// TCP has received everything.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.receiver.borrow().over
    }

    /// An acknowledgement leaves.
    pub fn acknowledge(&self) {
        let seq = FIRST.wrapping_add(self.sent.get() as u32);
        Self::pass(self.socket(), false, seq, ACK, &[]);
    }

    /// Bytes of the server's leave.
    pub fn send(&self, bytes: &[u8]) {
        while self.locked.replace(true) {
            host::point();
        }
        let at = self.sent.get();
        self.sent.set(at + bytes.len());
        Self::pass(self.socket(), false, FIRST.wrapping_add(at as u32), ACK | PSH, bytes);
        self.locked.set(false);
    }

    /// Whether the request is answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// Bytes that the server has sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.get() as u64
    }

    /// The server closes, and the client acknowledges that.
    pub fn close(&self) {
        let seq = FIRST.wrapping_add(self.sent.get() as u32);
        Self::pass(self.socket(), false, seq, ACK | FIN, &[]);
        let end = FIRST.wrapping_add(self.bytes.len() as u32 + 1);
        Self::pass(self.socket(), true, end, ACK, &[]);
        self.callback(STATE, [TCP_LAST_ACK, TCP_CLOSE, 0, 0]);
    }

    /// The state of the connection.
    #[must_use]
    pub fn state(&self) -> Conn {
        // SAFETY: the state of a live socket, which nobody changes now.
        unsafe { *(*self.socket()).state().cast::<Conn>() }
    }

    /// What was counted for all connections since the world began.
    #[must_use]
    pub fn books() -> Books {
        let mut books = Books::default();
        for index in RESERVED_SLOTS..SLOTS {
            let Some(cell) = maps::SLOTS.get(index) else { continue };
            if cell.key.cgroup == 0 {
                continue;
            }
            books.active = books.active.wrapping_add(count(cell, &slot::ACTIVE, 0));
            books.received += count(cell, &slot::BYTES, Direction::Received as usize);
            books.sent += count(cell, &slot::BYTES, Direction::Sent as usize);
            books.desyncs += count(cell, &slot::DESYNCS, 0);
            if cell.key.protocol == Protocol::WebSocket as u8 {
                books.websockets += count(cell, &slot::ENTERED, 0);
                if cell.protocol != 0
                    && let Some(block) = maps::SLOTS.get(cell.protocol)
                {
                    books.messages +=
                        count(block, &websocket::MESSAGES, Direction::Received as usize);
                    books.messages_sent +=
                        count(block, &websocket::MESSAGES, Direction::Sent as usize);
                    books.invalid += count(block, &websocket::INVALID_FRAMES, 0);
                }
            }
        }
        for (place, lost) in books.lost.iter_mut().enumerate() {
            *lost = maps::LOSS.get(place as u32).copied().unwrap_or_default();
        }
        books
    }

    /// Entries and blocks that are not free, and what the programs believe.
    #[must_use]
    pub fn in_use(room: Room) -> [u64; 4] {
        // What was let go is freed one by one, by those who keep others.
        for _ in 0..=room.entries {
            stream::kept::reclaim();
        }
        [
            (room.entries - maps::KEPT_FREE.len()) as u64,
            (room.small - maps::SMALL_FREE.len()) as u64,
            (room.large - maps::LARGE_FREE.len()) as u64,
            maps::PENDING.get(0).copied().unwrap_or_default(),
        ]
    }
}

fn count(slot: &Slot, counter: &Counter, combination: usize) -> u64 {
    let at = |first: usize| {
        let word = (first + counter.at(combination)) / 8;
        // SAFETY: a word of the slot.
        unsafe { std::ptr::from_ref(slot).cast::<u64>().add(word).read() }
    };
    if counter.shared {
        (0..SHARES).map(|share| at(8 * (SHARES_AT + share * SHARE_WORDS))).sum()
    } else {
        at(0)
    }
}
