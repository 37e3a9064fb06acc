//! The state machine against a map, with snapshots taken while it goes on.

use super::{
    change::{Answer, Change, Seal},
    snapshot,
    state::State,
};
use crate::{BucketName, Key, ObjectId, Page};
use base::SiteId;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::RwLock,
};

/// Key to id, by bucket.
type Model = BTreeMap<(usize, String), u128>;

const PARTS: [&str; 5] = ["a", "ab", "a-b", "b", "ä"];

fn bucket(n: usize) -> BucketName {
    BucketName::new(["one", "two"][n]).unwrap()
}

fn path(random: &mut StdRng) -> String {
    let depth = random.random_range(1..4);
    (0..depth).map(|_| *PARTS.choose(random).unwrap()).collect::<Vec<_>>().join("/")
}

fn under(key: &str, prefix: &str) -> bool {
    key == prefix || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

/// One random command, carried out by the model too. Whether the state's answer was what the model expects.
fn step(state: &mut State, model: &mut Model, next_id: &mut u128, random: &mut StdRng) -> (Change, bool) {
    let (b, c) = (random.random_range(0..2), random.random_range(0..2));
    let (from, to) = (path(random), path(random));
    let key = |text: &str| Key::new(text).unwrap();
    let at = |text: &str| (b, text.to_string());
    let counted = |n: usize| Answer::Counted { objects: n as u64, bytes: n as u64 };
    match random.random_range(0..12) {
        0..5 => {
            *next_id += 1;
            let if_absent = random.random();
            let seal = Seal {
                bucket: bucket(b),
                key: key(&from),
                id: *next_id,
                size: 1,
                checksum: 0,
                site: SiteId::new(*["x", "y"].choose(random).unwrap()).unwrap(),
                if_absent,
                metadata: if random.random() { Vec::new() } else { vec![1; 8] },
                expires_ms: 0,
                job: None,
            };
            let change = Change::Seal(seal);
            let answer = state.apply(1, &change);
            let taken = if_absent && model.contains_key(&at(&from));
            if !taken {
                model.insert(at(&from), *next_id);
            }
            (change, answer.is_ok() == !taken)
        }
        5..7 => {
            let change = Change::Remove { bucket: bucket(b), key: key(&from) };
            let answer = state.apply(1, &change);
            let old = model.remove(&at(&from));
            let good = match (&answer, old) {
                (Ok(Answer::Removed { object, last }), Some(id)) => object.id.0 == id && *last == !model.values().any(|other| *other == id),
                (Err(_), None) => true,
                _ => false,
            };
            (change, good)
        }
        7 => {
            let change = Change::Rename { bucket: bucket(b), from: key(&from), to_bucket: bucket(c), to: key(&to), if_absent: false };
            let answer = state.apply(1, &change);
            let old = model.remove(&at(&from));
            if let Some(id) = old {
                model.insert((c, to.clone()), id);
            }
            (change, answer.is_ok() == old.is_some())
        }
        8 => {
            let change = Change::Copy { bucket: bucket(b), from: key(&from), to_bucket: bucket(c), to: key(&to), if_absent: false };
            let answer = state.apply(1, &change);
            let old = model.get(&at(&from)).copied();
            if let Some(id) = old {
                model.insert((c, to.clone()), id);
            }
            (change, answer.is_ok() == old.is_some())
        }
        9 => {
            let change = Change::RemovePrefix { bucket: bucket(b), prefix: from.clone() };
            let answer = state.apply(1, &change);
            let before = model.len();
            model.retain(|(n, name), _| *n != b || !under(name, &from));
            (change, matches!(&answer, Ok(told) if *told == counted(before - model.len())))
        }
        sort => {
            let (bucket_from, bucket_to) = (bucket(b), bucket(c));
            let change = match sort {
                10 => Change::RenamePrefix { bucket: bucket_from, from: from.clone(), to_bucket: bucket_to, to: to.clone() },
                _ => Change::CopyPrefix { bucket: bucket_from, from: from.clone(), to_bucket: bucket_to, to: to.clone() },
            };
            let answer = state.apply(1, &change);
            let moved: Vec<(String, u128)> =
                model.iter().filter(|((n, name), _)| *n == b && under(name, &from)).map(|((_, name), id)| (name.clone(), *id)).collect();
            if sort == 10 {
                for (name, _) in &moved {
                    model.remove(&at(name));
                }
            }
            for (name, id) in &moved {
                model.insert((c, format!("{to}{}", &name[from.len()..])), *id);
            }
            (change, if moved.is_empty() { answer.is_err() } else { matches!(&answer, Ok(told) if *told == counted(moved.len())) })
        }
    }
}

fn check(state: &State, model: &Model, told: &str) {
    for b in 0..2 {
        let mut listed = Vec::new();
        let mut page = Some(Page::default());
        while let Some(at) = page.take() {
            let listing = state.list(&bucket(b), "", None, &at).unwrap();
            listed.extend(listing.objects.into_iter().map(|meta| ((b, meta.key.to_string()), meta.id.0)));
            page = listing.next.map(|start_after| Page { start_after, ..Page::default() });
        }
        let expected: Vec<_> = model.iter().filter(|((n, _), _)| *n == b).map(|(k, id)| (k.clone(), *id)).collect();
        assert_eq!(listed, expected, "{told}");
        for (name, id) in listed {
            assert_eq!(state.lookup(&bucket(b), &Key::new(name.1).unwrap()).unwrap().id.0, id, "{told}");
        }
        let (_, objects, bytes) = state.bucket_info(&bucket(b)).unwrap();
        assert_eq!((objects, bytes), (expected.len() as u64, expected.len() as u64), "{told}");
    }
    let ids: BTreeSet<u128> = model.values().copied().collect();
    assert_eq!(state.counts(), (model.len(), ids.len()), "{told}");
    let mut held: Vec<u128> = Vec::new();
    for site in ["x", "y"] {
        let mut last = None;
        while let Some(end) = {
            let page = state.held(&SiteId::new(site).unwrap(), last);
            held.extend(page.iter().map(|meta| meta.id.0));
            page.last().map(|meta| meta.id)
        } {
            last = Some(end);
        }
    }
    held.sort_unstable();
    assert_eq!(held, ids.iter().copied().collect::<Vec<_>>(), "{told}: each content is held once");
    for site in ["x", "y"] {
        assert!(state.garbage(Some(&SiteId::new(site).unwrap()), None).iter().all(|gone| !ids.contains(&gone.id.0)), "{told}: garbage has no name");
    }
}

#[test]
fn a_state_is_a_map_and_its_snapshot_is_of_one_moment() {
    let seed = std::env::var("GEDS_SEED").map_or_else(|_| rand::random::<u64>(), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut state, mut model, mut id) = (State::new(), Model::new(), 0);
    for b in 0..2 {
        state.apply(1, &Change::CreateBucket { bucket: bucket(b) }).unwrap();
    }
    for round in 0..60 {
        for n in 0..100 {
            let (change, good) = step(&mut state, &mut model, &mut id, &mut random);
            assert!(good, "seed {seed}, round {round}, step {n}: {change:?}");
            check(&state, &model, &format!("seed {seed}, round {round}, step {n}: {change:?}"));
        }
        // A walk with changes in its middle.
        let then = model.clone();
        let rest = state.freeze();
        let (mut contents, mut names) = (Vec::new(), Vec::new());
        let mut more = (true, true);
        while more.0 || more.1 {
            let (change, good) = step(&mut state, &mut model, &mut id, &mut random);
            assert!(good, "seed {seed}: {change:?}");
            let n = random.random_range(1..9);
            if more.0 {
                more.0 = state.pass_contents(n, |row| contents.push(row));
            } else {
                more.1 = state.pass_names(n, |row| names.push(row.into_owned()));
            }
        }
        let loaded = State::load(rest, (contents.len(), names.len()), contents.into_iter(), names.into_iter()).expect("its parts fit");
        check(&loaded, &then, &format!("seed {seed}, round {round}: the snapshot"));
        // Copies of folders in folders double, and their keys grow to what no key may have.
        if model.len() > 500 {
            for b in 0..2 {
                state.apply(1, &Change::RemovePrefix { bucket: bucket(b), prefix: String::new() }).unwrap();
            }
            model.clear();
        }
        if round % 10 == 9 {
            let folder = tempfile::tempdir().unwrap();
            let rest = state.freeze();
            let lock = RwLock::new(state);
            snapshot::write(folder.path(), rest, &lock, || false).unwrap().unwrap();
            state = snapshot::read(folder.path()).unwrap().0;
            check(&state, &model, &format!("seed {seed}, round {round}: read back"));
        }
    }
}

/// A byte at site x, under a key of the first bucket.
fn seal(key: &str, id: u128) -> Change {
    Change::Seal(Seal {
        bucket: bucket(0),
        key: Key::new(key).unwrap(),
        id,
        size: 1,
        checksum: 1,
        site: SiteId::new("x").unwrap(),
        if_absent: false,
        metadata: Vec::new(),
        expires_ms: 0,
        job: None,
    })
}

/// What is freed and used again gets other places in a state that was read from its snapshot: pages of what a site holds that come from both may leave something out, which its id still finds.
#[test]
fn pages_across_a_load_may_leave_something_out_and_an_id_does_not() {
    let site = SiteId::new("x").unwrap();
    let seal = |id: u128| seal(&format!("{id}"), id);
    let mut first = State::new();
    first.apply(1, &Change::CreateBucket { bucket: bucket(0) }).unwrap();
    (1..=2500).for_each(|id| drop(first.apply(1, &seal(id)).unwrap()));
    // What is freed last at run time is used first, here the first places; after a load the last places are.
    for id in (1..=2500u16).step_by(5).rev() {
        first.apply(1, &Change::Remove { bucket: bucket(0), key: Key::new(format!("{id}")).unwrap() }).unwrap();
    }
    let rest = first.freeze();
    let (mut contents, mut names) = (Vec::new(), Vec::new());
    while first.pass_contents(1000, |row| contents.push(row)) {}
    while first.pass_names(1000, |row| names.push(row.into_owned())) {}
    let mut second = State::load(rest, (contents.len(), names.len()), contents.into_iter(), names.into_iter()).expect("its parts fit");
    // The same commands, as a log holds them.
    for id in 3001..=3250 {
        first.apply(1, &seal(id)).unwrap();
        second.apply(1, &seal(id)).unwrap();
    }
    let all: BTreeSet<u128> = (1..=2500).filter(|id| id % 5 != 1).chain(3001..=3250).collect();
    let mut paged = BTreeSet::new();
    let (mut last, mut state) = (None, &second);
    while let Some(end) = {
        let page = state.held(&site, last);
        paged.extend(page.iter().map(|meta| meta.id.0));
        page.last().map(|meta| meta.id)
    } {
        // The one that was started anew is gone after the first page, and its standby takes over.
        (last, state) = (Some(end), &first);
    }
    assert!(paged.len() < all.len(), "if this can't happen any more, nobody needs to ask again");
    for id in all {
        assert_eq!(first.find(ObjectId(id)).map(|meta| meta.id.0), Some(id));
    }
}

/// Who watches a quiet bucket costs the same however busy others are.
#[test]
fn a_look_at_a_quiet_bucket_does_not_walk_through_what_others_did() {
    let mut state = State::new();
    (0..2).for_each(|n| drop(state.apply(1, &Change::CreateBucket { bucket: bucket(n) }).unwrap()));
    (1..=70_000).for_each(|n| drop(state.apply(1, &seal("k", n)).unwrap()));
    let began = std::time::Instant::now();
    (0..100_000).for_each(|_| assert!(!state.watched(&bucket(1), 0, 10).unwrap().resync));
    // Each walk is 65,536 events long: seconds in all.
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
}
