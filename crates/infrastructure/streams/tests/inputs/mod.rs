//! What a fuzzer throws at both ports, and what must hold afterwards. `tests/fuzz.rs` throws random bytes for a while, `fuzz/` what libFuzzer finds.
//!
//! An input is a list of choices: which command, which of a few names, which number of those that go wrong most often; and now and then raw bytes. So most inputs
//! are commands that make sense each, in an order that does not.

use crate::faulty::Faulty;
use prost::Message;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use streams::{
    Store,
    access::{self, Access, Want},
    catalog::{Config, SegmentNo, TxnId},
    controller::Controller,
    log, plan,
    proto::{controller_service_server::ControllerService, *},
    retention,
    scale::{Profile, Scaler},
    store::Options,
    tier::{self, Tier},
    watermark, wire,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Inputs of one world; then a new one, since most streams are sealed or gone by then.
const INPUTS_MAX: u32 = 200;
/// Set by any thread that panics, also by those that nobody waits for.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Choices out of bytes; at their end all of them are 0. The second are the tokens that there are to choose from.
struct Choices<'a>(&'a [u8], &'a [String]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.byte() as usize % all.len()]
    }
    fn some(&mut self) -> &'a [u8] {
        let n = (self.byte() as usize).min(self.0.len());
        let (some, rest) = self.0.split_at(n);
        self.0 = rest;
        some
    }
    fn token(&mut self) -> &'a str {
        let choice = self.byte() as usize;
        self.1.get(choice % self.1.len().max(1)).map_or("", String::as_str)
    }
    fn long(&mut self) -> i64 {
        match self.byte() % 4 {
            0 => i64::from(self.byte()),
            1 => self.of(&[0, 1, -1, i64::MIN, i64::MAX, 1 << 32, -2, 8, 0x0100_0000]),
            2 => i64::from_be_bytes(std::array::from_fn(|_| self.byte())),
            _ => 0,
        }
    }
    fn name(&mut self) -> String {
        let scope = self.of(&["s", "s", "s", "other", ""]);
        let stream = self.of(&["t", "t", "u", "_MARKt", "_RGg", "k_kvtable", "none"]);
        let end = self.of(&["/0.#epoch.0", "/1.#epoch.0", "/2.#epoch.1", "", "/0.#epoch.0#transient.00000000000000000000000000000001", "transaction", "transaction"]);
        if end != "transaction" {
            return format!("{scope}/{stream}{end}");
        }
        let segment = self.of(&["0.#epoch.0", "0.#epoch.0", "1.#epoch.0", "2.#epoch.1"]);
        self.transaction().segment(&format!("{scope}/{stream}/{segment}"))
    }
    /// Mostly one that there is: of the first stream's first epoch, of either of the second one's two; or that the controller may have made since.
    fn transaction(&mut self) -> TxnId {
        TxnId { high: self.of(&[0, 0, 0, 1 << 32, 2 << 32]), low: i64::from(self.byte() % 6) }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

/// A field of a command, as its code in [`COMMANDS`].
fn field(out: &mut Vec<u8>, code: char, choices: &mut Choices<'_>) {
    let key = |out: &mut Vec<u8>, choices: &mut Choices<'_>| {
        let key = choices.some();
        out.extend((key.len() as i32 + 12).to_be_bytes());
        bytes(out, key);
        let version = choices.of(&[i64::MIN, -1, 0, 1, 100]);
        out.extend(version.to_be_bytes());
    };
    match code {
        // A writer's id is one of a few, or no append would find its setup.
        'w' => out.extend(u128::from(choices.byte() % 3).to_be_bytes()),
        'l' => out.extend(choices.long().to_be_bytes()),
        'i' => out.extend((choices.long() as i32).to_be_bytes()),
        // A small count, mostly one that fits.
        'c' => out.extend(choices.of(&[1, 1, 1, 2, 0, -1, i32::MAX]).to_be_bytes()),
        'b' => out.push(choices.byte()),
        'n' => text(out, &choices.name()),
        't' => text(out, choices.token()),
        'd' => bytes(out, choices.some()),
        'r' => out.extend(choices.some()),
        'e' => {
            let event = choices.some();
            bytes(out, &[&0i32.to_be_bytes()[..], &(event.len() as i32).to_be_bytes(), event].concat());
        }
        'v' => {
            // Type and length of the event that a conditional append brings.
            let event = choices.some();
            out.extend(0i32.to_be_bytes());
            bytes(out, event);
        }
        'k' => key(out, choices),
        'p' => {
            key(out, choices);
            let value = choices.some();
            out.extend((value.len() as i32 + 4).to_be_bytes());
            bytes(out, value);
        }
        other => unreachable!("no field has the code {other}"),
    }
}

/// Every command with its fields.
const COMMANDS: [(i32, &str); 37] = [
    (-127, "ii"), (-1, "r"), (1, "lwnt"), (1, "lwnt"), (3, "wr"), (4, "wieill"), (4, "wieill"), (4, "wieill"), (5, "wllvl"), (89, "wllel"), (9, "nlitl"), (11, "lnt"), (20, "lnibtl"),
    (28, "lnt"), (30, "lnt"), (32, "lnibt"), (34, "lnllt"), (36, "lnllllt"), (38, "lnlt"), (40, "lwnt"), (41, "lnlt"), (58, "lnntc"), (58, "lnnt"), (90, "lncnt"), (68, "lnt"),
    (70, "lntb"), (71, "lnbt"), (74, "lntcpl"), (74, "lntcpl"), (76, "lntckl"), (78, "lntck"), (83, "lntid"), (85, "lntid"), (88, "lntli"), (100, ""), (123, "l"), (-5, "lnt"),
];

/// Bytes for the segment store's port.
fn conversation(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    while !choices.0.is_empty() {
        let (kind, fields) = choices.of(&COMMANDS);
        let mut payload = Vec::new();
        fields.chars().for_each(|code| field(&mut payload, code, choices));
        // Sometimes it is not what it says.
        match choices.byte() {
            0..=7 => payload.truncate(choices.byte() as usize),
            8..=15 if !payload.is_empty() => {
                let at = choices.byte() as usize % payload.len();
                payload[at] ^= 1 << (choices.byte() % 8);
            }
            16..=19 => payload.extend(choices.some()),
            20 => out.extend(choices.some()),
            _ => {}
        }
        out.extend(kind.to_be_bytes());
        bytes(&mut out, &payload);
    }
    out
}

pub struct World {
    runtime: tokio::runtime::Runtime,
    store: Store,
    controller: Controller,
    access: Access,
    /// Where there are users: what clients have for the stream `t`, and for nothing else, and what is like a token and none.
    tokens: Vec<String>,
    /// What lies elsewhere, at the beginning.
    elsewhere: String,
    inputs: u32,
    /// Something was appended to what there are tokens for.
    pub appended: bool,
    /// Long-term storage, and the users' file.
    _folder: tempfile::TempDir,
}

/// A server's access for one user who may write `s/t`, and tokens for that.
fn guarded(folder: &std::path::Path) -> (Access, Vec<String>) {
    let rules = ["prn::/scope:s/stream:t,READ_UPDATE".parse().unwrap()];
    std::fs::write(folder.join("users"), access::line("ada", "x", &rules).unwrap()).unwrap();
    let access = Access::load(&folder.join("users"), &folder.join("key"), Duration::from_secs(3600)).unwrap();
    let (stream, now) = ([access::stream("s", "t")], base::clock::now_ms());
    let token = |want, at| access.token(Some("ada"), &stream, want, at);
    let (update, read, old) = (token(Want::Update, now), token(Want::Read, now), token(Want::Update, 0));
    let mut spoilt = update.clone().into_bytes();
    *spoilt.last_mut().unwrap() ^= 4;
    let spoilt = String::from_utf8(spoilt).unwrap();
    (access, vec![update.clone(), update, read, String::new(), old, spoilt, "..".into()])
}

/// What nobody has a token for, as one text.
fn elsewhere(store: &Store) -> String {
    store.peek(|state| {
        let is_theirs = |name: &str| ["s/t", "s/_MARKt"].iter().any(|own| name.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        let others = state.segments.values().filter(|s| !is_theirs(&s.name));
        let others: Vec<_> = others.map(|s| (&s.name, s.start, s.length, s.sealed, s.deleted, s.attributes.len(), &s.table)).collect();
        format!("{others:#?}")
    })
}

impl World {
    pub fn new() -> World {
        World::with(|_| (Access::open(), Vec::new()))
    }

    /// One with users, where clients of the segment store have tokens for one stream.
    pub fn guarded() -> World {
        World::with(guarded)
    }

    fn with(access: impl FnOnce(&std::path::Path) -> (Access, Vec<String>)) -> World {
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                PANICKED.store(true, Relaxed);
                before(info);
            }));
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = Options {
            log: log::Options { file_bytes: 2 << 20, files_max: 4000, hands: 2, note_after: Duration::from_millis(2), spare_for: Duration::from_secs(600) },
            table_bytes_max: 64 << 10,
            ..Options::default()
        };
        let store = Store::open(Arc::new(Faulty::new(1)), options).unwrap();
        runtime.block_on(async {
            store.change(|s| plan::create_scope(s, "s")).await.unwrap();
            let two = || Config { scaling: streams::catalog::Scaling { min_segments: 2, ..Default::default() }, ..Config::default() };
            for stream in ["t", "u"] {
                store.change(|s| plan::create_stream(s, "s", stream, two(), 1)).await.unwrap();
            }
            let begin = async |stream: &str| store.change(|s| plan::begin_txn(s, "s", stream, 1 << 20, 1)).await.unwrap().0;
            assert_eq!([begin("t").await, begin("t").await, begin("u").await].map(|id| (id.high, id.low)), [(0, 0), (0, 1), (0, 2)]);
            store.change(|s| plan::scale(s, "s", "u", &[SegmentNo::new(0, 0)], &[(0.0, 0.5)], 1)).await.unwrap();
            assert_eq!(begin("u").await, TxnId { high: 1 << 32, low: 3 });
            let table = streams::catalog::KeyValueTable { partitions: 1, primary_key: 4, secondary_key: 0, rollover_bytes: 0 };
            store.change(|s| plan::create_table(s, "s", "k", table, 1)).await.unwrap();
        });
        let folder = tempfile::tempdir().unwrap();
        let (access, tokens) = access(folder.path());
        let controller = Controller::new(store.clone(), access.clone(), ("127.0.0.1".into(), 1), ("127.0.0.1".into(), 2));
        // What a server does by itself beside its clients; it ends with the runtime.
        runtime.spawn(controller.clone().sweep());
        runtime.spawn(Scaler::new(store.clone(), Profile::fast()).run());
        runtime.spawn(retention::run(store.clone()));
        runtime.spawn(watermark::run(store.clone()));
        let often = tier::Options { chunk_bytes: 4 << 10, flush_bytes: 1, manifest_every: Duration::from_millis(50), remove_after: Duration::from_millis(50), ..tier::Options::default() };
        let tier = Arc::new(Tier::new(geds::Persist::folder(folder.path().join("long-term")).unwrap(), None, often));
        store.set_tier(tier.clone());
        runtime.spawn(tier.run(store.clone()));
        let elsewhere = elsewhere(&store);
        World { runtime, store, controller, access, tokens, elsewhere, inputs: 0, appended: false, _folder: folder }
    }

    /// A connection to the segment store that says what the input makes of itself, and then nothing more.
    pub fn wire(&mut self, input: &[u8]) {
        let mut choices = Choices(input, &self.tokens);
        let said = if choices.byte() % 8 == 0 { choices.0.to_vec() } else { conversation(&mut choices) };
        let (store, access) = (self.store.clone(), self.access.clone());
        self.runtime.block_on(async {
            let (near, far) = tokio::io::duplex(64 << 10);
            let serving = tokio::spawn(wire::serve(far, store, access));
            let (mut answers, mut questions) = tokio::io::split(near);
            let asking = async {
                // The server may hang up before it has heard everything.
                let _ = questions.write_all(&said).await;
                let _ = questions.shutdown().await;
            };
            let mut heard = Vec::new();
            let hearing = answers.read_to_end(&mut heard);
            let talk = async {
                let ((), _) = tokio::join!(asking, hearing);
                let _ = serving.await.expect("a connection's task does not panic");
            };
            tokio::time::timeout(Duration::from_secs(20), talk).await.expect("a connection ends when its client has said everything");
            // Whole frames, of a length that the protocol allows.
            let mut left = &heard[..];
            while left.len() >= 8 {
                let length = i32::from_be_bytes(left[4..8].try_into().unwrap());
                assert!((0..=0x00ff_ffff).contains(&length) && left.len() >= 8 + length as usize, "an answer of {length} bytes, {} are there", left.len());
                left = &left[8 + length as usize..];
            }
            assert!(left.is_empty(), "half an answer");
        });
        self.check();
    }

    /// Calls of the controller, each with a message that the input makes.
    pub fn controller(&mut self, input: &[u8]) {
        let mut choices = Choices(input, &[]);
        while !choices.0.is_empty() {
            let call = choices.byte();
            let message = message(&mut choices);
            let c = self.controller.clone();
            macro_rules! calls {
                ($($n:literal $call:ident $kind:ty),* $(,)?) => {
                    match call % 47 {
                        $($n => {
                            let Ok(request) = <$kind>::decode(&message[..]) else { continue };
                            self.runtime.block_on(async {
                                let answer = tokio::time::timeout(Duration::from_secs(20), c.$call(tonic::Request::new(request))).await;
                                drop(answer.expect(concat!(stringify!($call), " ends")));
                            });
                        })*
                        _ => {}
                    }
                };
            }
            calls! {
                0 create_scope ScopeInfo, 1 delete_scope ScopeInfo, 2 delete_scope_recursive ScopeInfo, 3 list_scopes ScopesRequest, 4 create_stream StreamConfig,
                5 update_stream StreamConfig, 6 truncate_stream StreamCut, 7 seal_stream StreamInfo, 8 delete_stream StreamInfo, 9 get_current_segments StreamInfo,
                10 get_epoch_segments GetEpochSegmentsRequest, 11 get_segments GetSegmentsRequest, 12 get_segments_immediately_following SegmentId,
                13 get_segments_between StreamCutRange, 14 scale ScaleRequest, 15 check_scale ScaleStatusRequest, 16 get_uri SegmentId, 17 is_segment_valid SegmentId,
                18 is_stream_cut_valid StreamCut, 19 create_transaction CreateTxnRequest, 20 commit_transaction TxnRequest, 21 abort_transaction TxnRequest,
                22 ping_transaction PingTxnRequest, 23 check_transaction_state TxnRequest, 24 list_completed_transactions ListCompletedTxnRequest,
                25 list_streams_in_scope StreamsInScopeRequest, 26 list_streams_in_scope_for_tag StreamsInScopeWithTagRequest, 27 get_delegation_token StreamInfo,
                28 remove_writer RemoveWriterRequest, 29 note_timestamp_from_writer TimestampFromWriter, 30 create_key_value_table KeyValueTableConfig,
                31 delete_key_value_table KeyValueTableInfo, 32 list_subscribers StreamInfo, 33 update_subscriber_stream_cut SubscriberStreamCut,
                34 create_reader_group ReaderGroupConfiguration, 35 get_reader_group_config ReaderGroupInfo, 36 delete_reader_group ReaderGroupInfo,
                37 update_reader_group ReaderGroupConfiguration, 38 get_stream_configuration StreamInfo, 39 check_stream_exists StreamInfo,
                40 get_current_segments_key_value_table KeyValueTableInfo, 41 list_key_value_tables_in_scope KvTablesInScopeRequest,
                42 get_controller_server_list ServerRequest, 43 check_scope_exists ScopeInfo, 44 get_key_value_table_configuration KeyValueTableInfo,
                45 get_segments_immediatly_following SegmentId, 46 get_controller_to_bucket_mapping ControllerToBucketMappingRequest,
            }
        }
        self.check();
    }

    /// The store is what it must be, and still does what it is for.
    fn check(&mut self) {
        assert!(!PANICKED.load(Relaxed), "a thread has panicked");
        assert!(self.store.log().progress().borrow().stopped.is_none(), "the log has stopped");
        self.inputs += 1;
        let alive = format!("alive-{}", self.inputs);
        self.runtime.block_on(async {
            self.store.change(|s| plan::create_scope(s, &alive)).await.unwrap();
            self.store.change(|s| plan::delete_scope(s, &alive, true)).await.unwrap();
        });
        self.store.peek(|s| {
            s.check().unwrap();
            assert!(s.table_cost() <= 64 << 10, "{} bytes of tables", s.table_cost());
        });
        self.appended |= self.store.peek(|s| s.segments.values().any(|s| s.name.starts_with("s/t/") && s.length > 0));
        if !self.access.is_open() {
            assert_eq!(elsewhere(&self.store), self.elsewhere, "tokens for s/t have changed something else");
        }
        if self.inputs >= INPUTS_MAX {
            self.store.close();
            let appended = self.appended;
            *self = if self.access.is_open() { World::new() } else { World::guarded() };
            self.appended = appended;
        }
    }
}

/// A message in the protocol's own encoding: fields of small numbers, each a number, a name, or a message again.
fn message(choices: &mut Choices<'_>) -> Vec<u8> {
    fn fields(choices: &mut Choices<'_>, depth: u32) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..choices.byte() % 5 {
            let number = choices.byte() % 11 + 1;
            match choices.byte() % 8 {
                0..=1 => {
                    out.push(number << 3);
                    prost::encoding::encode_varint(choices.long() as u64, &mut out);
                }
                2..=3 => {
                    let name = choices.of(&["s", "t", "u", "k", "g", "_MARKt", "s/g", "other", "", "a/b", "é"]);
                    out.push(number << 3 | 2);
                    prost::encoding::encode_varint(name.len() as u64, &mut out);
                    out.extend(name.as_bytes());
                }
                4 => {
                    out.push(number << 3 | 1);
                    out.extend(choices.of(&[0.0, 0.5, 1.0, f64::NAN, -1.0, f64::INFINITY, 1e-300]).to_le_bytes());
                }
                5..=6 if depth < 3 => {
                    let inner = match choices.byte() % 4 {
                        0..=1 => stream(choices),
                        2 => {
                            let id = choices.transaction();
                            streams::proto::TxnId { high_bits: id.high, low_bits: id.low }.encode_to_vec()
                        }
                        _ => fields(choices, depth + 1),
                    };
                    out.push(number << 3 | 2);
                    prost::encoding::encode_varint(inner.len() as u64, &mut out);
                    out.extend(inner);
                }
                _ => out.extend(choices.some()),
            }
        }
        out
    }
    /// Scope and stream, which nearly every message names.
    fn stream(choices: &mut Choices<'_>) -> Vec<u8> {
        let (scope, stream) = (choices.of(&["s", "s", "s", "other"]), choices.of(&["t", "u", "_MARKt", "none"]));
        StreamInfo { scope: scope.into(), stream: stream.into(), access_operation: 0 }.encode_to_vec()
    }
    let mut out = Vec::new();
    match choices.byte() % 4 {
        // The name where most messages have it, or as the message itself.
        0..=1 => {
            let name = stream(choices);
            out.push(1 << 3 | 2);
            prost::encoding::encode_varint(name.len() as u64, &mut out);
            out.extend(name);
        }
        2 => out.extend(stream(choices)),
        _ => {}
    }
    out.extend(fields(choices, 0));
    out
}
