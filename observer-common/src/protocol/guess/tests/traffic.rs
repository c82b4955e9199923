//! Traffic like that of other protocols, and noise.

use crate::protocol::Protocol;

/// Pseudo-random numbers (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(length).collect()
    }

    fn text(&mut self, length: usize) -> Vec<u8> {
        self.bytes(length).into_iter().map(|byte| b' ' + byte % 95).collect()
    }

    /// Mostly a short one.
    fn length(&mut self) -> usize {
        match self.below(10) {
            0 => self.below(1400),
            1 | 2 => self.below(300),
            _ => self.below(60),
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    Noise,
    Redis,
    Postgres,
    Mysql,
    Mqtt,
    Kafka,
    Amqp,
    Nats,
    Ssh,
    Protobuf,
    Varints,
    MessagePack,
    Tls,
    Video,
}

/// A connection.
pub(super) struct Talk {
    traffic: Traffic,
    number: u32,
}

impl Traffic {
    pub(super) const ALL: [Self; 14] = [
        Self::Noise,
        Self::Redis,
        Self::Postgres,
        Self::Mysql,
        Self::Mqtt,
        Self::Kafka,
        Self::Amqp,
        Self::Nats,
        Self::Ssh,
        Self::Protobuf,
        Self::Varints,
        Self::MessagePack,
        Self::Tls,
        Self::Video,
    ];

    /// What it may be taken for.
    pub(super) const fn is(self) -> Option<Protocol> {
        match self {
            Self::Tls => Some(Protocol::Tls),
            _ => None,
        }
    }

    pub(super) fn begin(self, random: &mut Random) -> Talk {
        Talk { traffic: self, number: random.next() as u32 >> 8 }
    }
}

impl Talk {
    /// The next segment, the client's or the server's; some hold several messages.
    pub(super) fn segment(&mut self, random: &mut Random) -> (bool, Vec<u8>) {
        self.number += 1;
        let is_clients = self.number.is_multiple_of(2);
        let messages = 1 + random.below(4) / 3 * random.below(4);
        let mut segment = Vec::new();
        for _ in 0..messages {
            segment.extend(self.message(is_clients, random));
        }
        (is_clients, segment)
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each protocol")]
    fn message(&self, client: bool, random: &mut Random) -> Vec<u8> {
        let length = random.length();
        match self.traffic {
            Traffic::Noise => random.bytes(length + 1),
            Traffic::Redis if client => {
                let value = random.text(length);
                let head = format!("*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n${length}\r\n");
                [head.as_bytes(), &value, b"\r\n"].concat()
            }
            Traffic::Redis => match random.below(3) {
                0 => b"+OK\r\n".to_vec(),
                1 => format!(":{}\r\n", random.next()).into_bytes(),
                _ => [format!("${length}\r\n").as_bytes(), &random.text(length), b"\r\n"].concat(),
            },
            Traffic::Postgres => {
                let kinds: &[u8] = if client { b"QPBDESCH" } else { b"TDCZ123ESKNtR" };
                let kind = kinds[random.below(kinds.len())];
                [&[kind][..], &(length as u32 + 4).to_be_bytes(), &random.text(length)].concat()
            }
            Traffic::Mysql => {
                // Little-endian length in three bytes, a number, and a command or a row.
                let sequence = if client { 0 } else { 1 + random.below(9) as u8 };
                let first = [0x03, 0x0e, 0x16, 0x17, 0x00, 0xfe][random.below(6)];
                let head = (length as u32 + 1).to_le_bytes();
                [&head[..3], &[sequence, first], &random.bytes(length)].concat()
            }
            Traffic::Mqtt => {
                let kinds: &[u8] = if client {
                    &[0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0xa2, 0xc0, 0xe0]
                } else {
                    &[0x20, 0x30, 0x32, 0x3d, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0]
                };
                let kind = kinds[random.below(kinds.len())];
                if matches!(kind, 0xc0 | 0xd0 | 0xe0) {
                    return vec![kind, 0];
                }
                [&[kind][..], &varint(length), &random.bytes(length)].concat()
            }
            Traffic::Kafka => {
                let correlation = self.number.to_be_bytes();
                let key = (random.below(60) as u16).to_be_bytes();
                let head = if client {
                    [&key[..], &(random.below(12) as u16).to_be_bytes(), &correlation].concat()
                } else {
                    correlation.to_vec()
                };
                let size = (head.len() + length) as u32;
                [&size.to_be_bytes()[..], &head, &random.bytes(length)].concat()
            }
            Traffic::Amqp => {
                let kind = [1, 2, 3, 8][random.below(4)];
                let channel = (random.below(3) as u16).to_be_bytes();
                let length = if kind == 8 { 0 } else { length };
                let size = (length as u32).to_be_bytes();
                [&[kind][..], &channel, &size, &random.bytes(length), &[0xce]].concat()
            }
            Traffic::Nats if random.below(4) == 0 => {
                if client {
                    b"PING\r\n".to_vec()
                } else {
                    b"PONG\r\n".to_vec()
                }
            }
            Traffic::Nats => {
                let verb = if client { "PUB" } else { "MSG" };
                let head = format!("{verb} orders.new 1 {length}\r\n");
                [head.as_bytes(), &random.text(length), b"\r\n"].concat()
            }
            Traffic::Ssh => {
                // The length of a packet is encrypted, or not, by cipher.
                let length = 16 * (1 + length / 16);
                if self.traffic_number().is_multiple_of(2) {
                    random.bytes(length + 20)
                } else {
                    [&(length as u32).to_be_bytes()[..], &random.bytes(length + 16)].concat()
                }
            }
            Traffic::Protobuf => {
                let body = self.fields(length, random);
                [&(body.len() as u32).to_be_bytes()[..], &body].concat()
            }
            Traffic::Varints => {
                let body = self.fields(length, random);
                [&varint(body.len())[..], &body].concat()
            }
            Traffic::MessagePack => {
                // A map of one or two entries, the keys short texts or small numbers.
                let entries = 1 + random.below(2) as u8;
                let mut bytes = vec![0x80 | entries];
                for _ in 0..entries {
                    if random.below(2) == 0 {
                        bytes.push(random.below(128) as u8);
                    } else {
                        bytes.push(0xa0 | 2);
                        bytes.extend(random.text(2));
                    }
                    let text = random.text(length % 31);
                    bytes.push(0xa0 | text.len() as u8);
                    bytes.extend(text);
                }
                bytes
            }
            Traffic::Tls => {
                let kind = [23, 23, 23, 23, 23, 21, 22][random.below(7)];
                let length = length + 17;
                let size = (length as u16).to_be_bytes();
                [&[kind, 3, 3][..], &size, &random.bytes(length)].concat()
            }
            Traffic::Video if client => random.bytes(1 + length % 24),
            Traffic::Video => {
                // NAL units behind start codes, or the packets of a transport stream.
                if self.traffic_number().is_multiple_of(2) {
                    let kind = [0x67, 0x68, 0x65, 0x41, 0x01, 0x06][random.below(6)];
                    [&[0, 0, 0, 1, kind][..], &random.bytes(length * 8)].concat()
                } else {
                    [&[0x47, 0x01, 0x00, 0x10][..], &random.bytes(184)].concat()
                }
            }
        }
    }

    /// A number that stays the same in the whole connection.
    const fn traffic_number(&self) -> u32 {
        self.number >> 9
    }

    /// Fields of a message: small numbers, and one that is bytes.
    fn fields(&self, length: usize, random: &mut Random) -> Vec<u8> {
        let mut bytes = vec![0x08, (self.number & 0x7f) as u8, 0x10, random.below(128) as u8];
        bytes.push(0x1a);
        bytes.extend(varint(length));
        bytes.extend(random.bytes(length));
        bytes
    }
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
