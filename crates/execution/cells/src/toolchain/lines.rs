//! Which line of which source file an instruction comes from, kept through the passes, for the backtraces of cells that fail.
//!
//! ```text
//! linked module, with DWARF of what was compiled with -g ──read──▶ Lines: for each function rows of (offset in its body, place)
//! each pass that writes bodies anew ──Trails: which bytes went where──▶ Lines::moved
//! finished module ◀──append── custom section "cloudskin.lines"
//! a cell that has failed: function and offset of each frame ──find──▶ file, line, and what was inlined there
//! ```
//!
//! DWARF itself does not stay: its addresses would have to be written anew in five sections, and most of it is about types and variables. What a backtrace needs is a fifth of it or less, and
//! nothing of it is read before a cell fails.
//!
//! Only what the user has compiled with `-g` has lines. The libraries that the compiler builds have debug information as well; it is left out, so that a program that was compiled without `-g`
//! is the same to the byte. The section is as foreign as the rest of a module: who reads it ([`find`]) believes no number in it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use addr2line::gimli::{self, EndianSlice, LittleEndian};
use serde::{Deserialize, Serialize};
use wasm_encoder::{CustomSection, Encode, SectionId};
use wasmparser::{FunctionBody, Parser, Payload, TypeRef};

/// Name of the custom section.
const SECTION: &str = "cloudskin.lines";
/// Of what the section holds. Another one is not read.
const VERSION: u32 = 1;
/// The largest section that is written and read: the lines of some ten million instructions.
const BYTES_MAX: usize = 16 << 20;
/// Calls that were inlined into each other at one place; of more, those between the innermost ones and the function itself are left out.
const INLINED_MAX: usize = 32;

/// The lines of a module.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Lines {
    version: u32,
    /// Files and functions, each once.
    texts: Vec<String>,
    places: Vec<Place>,
    /// In the order of their indices.
    functions: Vec<Function>,
}

/// A line, and the function that it is in, if that was inlined.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Place {
    file: u32,
    line: u32,
    /// Number of its name, plus one. 0: it is the function itself.
    inlined: u32,
    /// Number of the place into which it was inlined, plus one: always an earlier one.
    within: u32,
}

#[derive(Serialize, Deserialize)]
struct Function {
    index: u32,
    /// Each is up to the next one.
    rows: Vec<Row>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    /// Bytes behind the row before; of the first one behind the beginning of the function's body.
    behind: u32,
    /// Number of the place, plus one. 0: nothing is known.
    place: u32,
}

/// One call of a backtrace: what was inlined, if it was, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub inlined: Option<String>,
    pub file: String,
    pub line: u32,
}

/// Which bytes of a function's old body are where in the new one, in the order of the new one. What lies between comes from what precedes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail(Vec<Piece>);

#[derive(Clone, Copy, Debug)]
struct Piece {
    new: usize,
    old: usize,
    bytes: usize,
}

impl Trail {
    /// `old`, as it lies in the module, is written to `new` in the new body.
    pub(super) fn copied(&mut self, new: usize, old: Range<usize>) {
        match self.0.last_mut() {
            Some(last) if last.old + last.bytes == old.start && last.new + last.bytes == new => last.bytes += old.len(),
            _ => self.0.push(Piece { new, old: old.start, bytes: old.len() }),
        }
    }
}

/// Those of all functions that a pass has written anew, with where their old bodies began. Functions of which it says nothing stay as they are.
#[derive(Default)]
pub(super) struct Trails(HashMap<u32, (usize, Trail)>);

impl Trails {
    pub(super) fn put(&mut self, function: u32, old_body: usize, trail: Trail) {
        self.0.insert(function, (old_body, trail));
    }
}

/// The numbers of texts and places while they are collected.
#[derive(Default)]
struct Numbers {
    texts: HashMap<String, u32>,
    places: HashMap<Place, u32>,
}

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// The functions of a module.
#[derive(Default)]
struct Code<'a> {
    imported: u32,
    /// Where the section's content begins, from where DWARF counts.
    begins: usize,
    bodies: Vec<FunctionBody<'a>>,
}

fn code(wasm: &[u8]) -> wasmparser::Result<Code<'_>> {
    let mut code = Code::default();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    code.imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                }
            }
            Payload::CodeSectionStart { range, .. } => code.begins = range.start,
            Payload::CodeSectionEntry(body) => code.bodies.push(body),
            _ => {}
        }
    }
    Ok(code)
}

/// The content of the custom section of this name. The code is passed over and not read.
fn section<'a>(wasm: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut parser = Parser::new(0);
    let mut rest = wasm;
    loop {
        let wasmparser::Chunk::Parsed { consumed, payload } = parser.parse(rest, true).ok()? else { return None };
        match payload {
            Payload::CustomSection(section) if section.name() == name => return Some(section.data()),
            Payload::CodeSectionStart { size, .. } => {
                parser.skip_section();
                rest = rest.get(consumed..)?.get(size as usize..)?;
                continue;
            }
            Payload::End(_) => return None,
            _ => {}
        }
        rest = rest.get(consumed..)?;
    }
}

/// Whether a source comes with the compiler: whether the folder with its sources has a file that is called like the end of this path, by two names at least.
///
/// The path's beginning says nothing: the compiler shares what it has built with its copies in other folders, has it still when they were moved or deleted, and writes paths relative to where it was
/// started.
fn comes_with(sources: &Path, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| path[at..].trim_start_matches('/'));
    ends.take_while(|end| end.contains('/')).any(|end| !end.starts_with("../") && sources.join(end).is_file())
}

impl Lines {
    /// Those of a module that was just linked, by its DWARF. `None`: nothing in it was compiled with `-g`. `sources`: the folder with those that come with the compiler and are not the user's.
    ///
    /// # Errors
    /// The debug information can't be read.
    pub(super) fn read(wasm: &[u8], sources: &Path) -> Result<Option<Lines>, String> {
        let code = code(wasm).map_err(|e| e.to_string())?;
        Lines::of_dwarf(wasm, &code, sources).map_err(|e| e.to_string())
    }

    fn of_dwarf(wasm: &[u8], code: &Code<'_>, sources: &Path) -> gimli::Result<Option<Lines>> {
        let load = |id: gimli::SectionId| Ok::<_, gimli::Error>(EndianSlice::new(section(wasm, id.name()).unwrap_or(&[]), LittleEndian));
        let dwarf = gimli::Dwarf::load(load)?;
        let mut units: Vec<gimli::Unit<Reader<'_>>> = Vec::new();
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            let text = |text: Option<Reader<'_>>| text.map_or(String::new(), |text| text.to_string_lossy().into_owned());
            let (folder, name) = (text(unit.comp_dir), text(unit.name));
            // Its parts in its own language are named after what they are, not after a file.
            let producer = unit.entry(unit.header.root_offset())?.attr_value(gimli::DW_AT_producer);
            let producer = text(producer.map(|value| dwarf.attr_string(&unit, value)).transpose()?);
            if !producer.starts_with("zig ") && !comes_with(sources, &format!("{folder}/{name}")) {
                units.push(unit);
            }
        }
        if units.is_empty() {
            return Ok(None);
        }
        // Where a path is relative to: nobody wants to read in each line where the user's folder lies. Longest first.
        let folders = units.iter().filter_map(|unit| unit.comp_dir?.to_string().ok()).chain(sources.to_str());
        let mut roots: Vec<String> = folders.map(|folder| format!("{}/", folder.trim_end_matches('/'))).collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
        roots.dedup();
        let mut ranges = Vec::new();
        for unit in &units {
            let mut all = dwarf.unit_ranges(unit)?;
            while let Some(range) = all.next()? {
                ranges.push((range.begin, range.end));
            }
        }
        ranges.sort_unstable();
        let context = addr2line::Context::from_dwarf(dwarf)?;
        let (mut lines, mut numbers) = (Lines { version: VERSION, ..Lines::default() }, Numbers::default());
        for (index, body) in (code.imported..).zip(&code.bodies) {
            let (from, to) = ((body.range().start - code.begins) as u64, (body.range().end - code.begins) as u64);
            let before = ranges.partition_point(|(begin, _)| *begin < to);
            if !ranges[..before].last().is_some_and(|(_, end)| *end > from) {
                continue;
            }
            let (mut rows, mut told): (Vec<(u32, u32)>, u64) = (Vec::new(), from);
            for (begin, bytes, _) in context.find_location_range(from, to)? {
                let (at, end) = (begin.max(from), begin.saturating_add(bytes.max(1)).min(to));
                // Of two that say something of the same bytes one is enough.
                if at < told || at >= end {
                    continue;
                }
                told = end;
                let mut frames = context.find_frames(at).skip_all_loads()?;
                let mut calls = Vec::new();
                while let Some(frame) = frames.next()? {
                    let name = frame.function.as_ref().and_then(|name| name.demangle().ok()).map(|name| name.into_owned());
                    let Some((Some(file), line)) = frame.location.map(|l| (l.file, l.line.unwrap_or(0))) else { continue };
                    let file = roots.iter().find_map(|root| file.strip_prefix(root.as_str())).unwrap_or(file);
                    calls.push((name, file.to_string(), line));
                }
                let place = lines.place(&mut numbers, calls);
                put(&mut rows, (at - from) as u32, place);
                // What follows up to the next row is nobody's.
                put(&mut rows, (end - from) as u32, 0);
            }
            lines.push(index, &rows);
        }
        Ok(Some(lines).filter(|lines| !lines.functions.is_empty()))
    }

    /// The number of a place, plus one: its calls innermost first, the function itself last. Line 0 is DWARF's word for code that belongs to no line.
    fn place(&mut self, numbers: &mut Numbers, mut calls: Vec<(Option<String>, String, u32)>) -> u32 {
        if calls.len() > INLINED_MAX {
            calls.drain(INLINED_MAX - 1..calls.len() - 1);
        }
        // What is at no line is at that of the call into which it was inlined.
        while calls.first().is_some_and(|(_, _, line)| *line == 0) {
            calls.remove(0);
        }
        let mut text = |text: String| match numbers.texts.get(&text) {
            Some(number) => *number,
            None => {
                let number = self.texts.len() as u32;
                self.texts.push(text.clone());
                numbers.texts.insert(text, number);
                number
            }
        };
        let (mut within, mut outermost) = (0, true);
        for (name, file, line) in calls.into_iter().rev() {
            let inlined = if std::mem::take(&mut outermost) { 0 } else { text(name.unwrap_or_else(|| "a function".into())) + 1 };
            let place = Place { file: text(file), line, inlined, within };
            within = *numbers.places.entry(place).or_insert_with(|| {
                self.places.push(place);
                self.places.len() as u32
            });
        }
        within
    }

    fn push(&mut self, index: u32, rows: &[(u32, u32)]) {
        if rows.iter().all(|(_, place)| *place == 0) {
            return;
        }
        let mut before = 0;
        let rows = rows.iter().map(|(at, place)| Row { behind: at - std::mem::replace(&mut before, *at), place: *place }).collect();
        self.functions.push(Function { index, rows });
    }

    /// After a pass.
    pub(super) fn moved(&mut self, trails: &Trails) {
        for function in std::mem::take(&mut self.functions) {
            let old = function.rows();
            let Some((body, Trail(pieces))) = trails.0.get(&function.index) else {
                self.functions.push(function);
                continue;
            };
            let mut rows = Vec::new();
            for (n, piece) in pieces.iter().enumerate() {
                let from = (piece.old - body) as u32;
                let first = old.partition_point(|(at, _)| *at <= from);
                put(&mut rows, piece.new as u32, first.checked_sub(1).map_or(0, |row| old[row].1));
                // An instruction that was written anew may be shorter than it was.
                let bytes = pieces.get(n + 1).map_or(piece.bytes, |next| piece.bytes.min(next.new - piece.new));
                for (at, place) in old[first..].iter().take_while(|(at, _)| ((*at - from) as usize) < bytes) {
                    put(&mut rows, piece.new as u32 + (at - from), *place);
                }
            }
            self.push(function.index, &rows);
        }
    }

    /// Puts them at the end of a module. `false`: they are too many, and are left out.
    pub(super) fn append(&self, wasm: &mut Vec<u8>) -> bool {
        let data = postcard::to_stdvec(self).expect("numbers and texts always have a form");
        if data.len() > BYTES_MAX {
            return false;
        }
        wasm.push(SectionId::Custom.into());
        CustomSection { name: SECTION.into(), data: (&data).into() }.encode(wasm);
        true
    }
}

impl Function {
    /// Offsets in the body, and places.
    fn rows(&self) -> Vec<(u32, u32)> {
        let mut at = 0u32;
        let row = |row: &Row| {
            at = at.saturating_add(row.behind);
            (at, row.place)
        };
        self.rows.iter().map(row).collect()
    }
}

/// A row from here on, unless what holds before it says the same.
fn put(rows: &mut Vec<(u32, u32)>, at: u32, place: u32) {
    // Of two at one offset the later one is meant.
    if rows.last().is_some_and(|(last, _)| *last == at) {
        rows.pop();
    }
    if rows.last().map_or(0, |(_, last)| *last) != place {
        rows.push((at, place));
    }
}

/// The section of a module, for [`find`]; `None` if it has none, or one that is larger than any that is written.
pub(crate) fn of(wasm: &[u8]) -> Option<&[u8]> {
    section(wasm, SECTION).filter(|data| data.len() <= BYTES_MAX)
}

/// For each frame of a backtrace, by function and offset in its body: the calls that it stands for, innermost first; none where nothing is known. `data` is what [`of`] has given.
pub(crate) fn find(data: &[u8], frames: &[Option<(u32, usize)>]) -> Vec<Vec<Call>> {
    let lines = postcard::from_bytes::<Lines>(data).ok().filter(|lines| lines.version == VERSION).unwrap_or_default();
    frames.iter().map(|frame| frame.map_or(Vec::new(), |(function, offset)| lines.calls(function, offset))).collect()
}

impl Lines {
    fn calls(&self, function: u32, offset: usize) -> Vec<Call> {
        let Ok(found) = self.functions.binary_search_by_key(&function, |f| f.index) else { return Vec::new() };
        let rows = self.functions[found].rows();
        let row = rows.partition_point(|(at, _)| *at as usize <= offset);
        let mut next = row.checked_sub(1).map_or(0, |row| rows[row].1);
        let mut calls = Vec::new();
        while let Some(place) = next.checked_sub(1).and_then(|n| self.places.get(n as usize)).filter(|_| calls.len() < INLINED_MAX) {
            let text = |number: u32| self.texts.get(number as usize).cloned().unwrap_or_default();
            calls.push(Call { inlined: place.inlined.checked_sub(1).map(text), file: text(place.file), line: place.line });
            next = place.within;
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_the_compiler_is_known_wherever_its_copy_lay() {
        let folder = tempfile::tempdir().unwrap();
        let sources = folder.path().join("lib");
        std::fs::create_dir_all(sources.join("libc/stdio")).unwrap();
        for file in ["libc/stdio/puts.c", "zig.h"] {
            std::fs::write(sources.join(file), "").unwrap();
        }
        let here = format!("{}/libc/stdio/puts.c", sources.display());
        for path in [&here, "/gone/lib/libc/stdio/puts.c", "/home/me/../../gone/lib/libc/stdio/puts.c"] {
            assert!(comes_with(&sources, path), "{path}");
        }
        for path in ["/home/me/puts.c", "/home/me/stdio/puts.c", "/home/me/zig.h", "/home/me/libc/stdio/puts.cc", "/home/me/libc/stdio", "", "/"] {
            assert!(!comes_with(&sources, path), "{path}");
        }
        let mine = tempfile::NamedTempFile::new().unwrap();
        assert!(!comes_with(&sources, &format!("/home/me/{}", mine.path().display())));
    }

    /// A function with these rows; each place is the line of its number.
    fn lines(rows: &[(u32, u32)]) -> Lines {
        let (mut lines, mut numbers) = (Lines { version: VERSION, ..Lines::default() }, Numbers::default());
        for line in 1..=9 {
            lines.place(&mut numbers, vec![(Some("f".into()), "a.c".into(), line)]);
        }
        lines.push(3, rows);
        lines
    }

    fn at(lines: &Lines, function: u32, offset: usize) -> Option<u32> {
        lines.calls(function, offset).first().map(|call| call.line)
    }

    #[test]
    fn rows_go_where_their_bytes_go() {
        let mut lines = lines(&[(2, 1), (10, 2), (20, 3), (30, 0)]);
        assert_eq!([0, 2, 9, 10, 19, 20, 29, 30].map(|offset| at(&lines, 3, offset)), [None, Some(1), Some(1), Some(2), Some(2), Some(3), Some(3), None]);
        assert_eq!(at(&lines, 2, 10), None);
        // From 5 to 25 it is written down twice, behind ten bytes that are new, and with a gap between the copies; then comes the rest.
        let (mut trail, mut trails) = (Trail::default(), Trails::default());
        trail.copied(10, 105..120);
        trail.copied(25, 120..125);
        trail.copied(40, 105..125);
        trail.copied(60, 125..140);
        trails.put(3, 100, trail);
        lines.moved(&trails);
        let expected = [(0, None), (10, Some(1)), (14, Some(1)), (15, Some(2)), (25, Some(3)), (29, Some(3)), (35, Some(3)), (40, Some(1)), (45, Some(2)), (55, Some(3)), (60, Some(3)), (64, Some(3)), (65, None)];
        for (offset, line) in expected {
            assert_eq!(at(&lines, 3, offset), line, "at {offset}");
        }
        // A pass that says nothing of a function leaves it as it is.
        lines.moved(&Trails::default());
        assert_eq!(at(&lines, 3, 45), Some(2));
    }

    #[test]
    fn what_was_inlined_is_told_with_where() {
        let (mut lines, mut numbers) = (Lines { version: VERSION, ..Lines::default() }, Numbers::default());
        let call = |name: &str, file: &str, line| (Some(name.to_string()), file.to_string(), line);
        let deep = lines.place(&mut numbers, vec![call("inner", "b.h", 7), call("outer", "b.h", 9), call("main", "a.c", 3)]);
        let same = lines.place(&mut numbers, vec![call("outer", "b.h", 9), call("main", "a.c", 3)]);
        assert_eq!((deep, same, lines.places.len(), lines.texts.len()), (3, 2, 3, 4));
        let nowhere = lines.place(&mut numbers, vec![call("inner", "b.h", 0), call("main", "a.c", 3)]);
        assert_eq!(nowhere, 1, "code of no line is the call's");
        lines.push(0, &[(1, deep)]);
        let mut wasm = wat::parse_str("(module (func))").unwrap();
        assert!(of(&wasm).is_none() && lines.append(&mut wasm));
        wasmparser::Validator::new().validate_all(&wasm).unwrap();
        let of = of(&wasm).unwrap();
        let told = |inlined: Option<&str>, file: &str, line| Call { inlined: inlined.map(str::to_string), file: file.into(), line };
        let found = find(of, &[Some((0, 5)), None, Some((0, 0)), Some((1, 5))]);
        assert_eq!(found, [vec![told(Some("inner"), "b.h", 7), told(Some("outer"), "b.h", 9), told(None, "a.c", 3)], vec![], vec![], vec![]]);
    }

    /// Numbers that point nowhere, or round in a circle, and any bytes at all.
    #[test]
    fn a_section_that_lies_tells_nothing_and_ends() {
        let place = |within| Place { file: 9, line: 1, inlined: 77, within };
        let rows = vec![Row { behind: u32::MAX, place: 1 }, Row { behind: u32::MAX, place: 2 }];
        let made = Lines { version: VERSION, texts: Vec::new(), places: vec![place(2), place(1)], functions: vec![Function { index: 0, rows }] };
        let data = postcard::to_stdvec(&made).unwrap();
        let found = find(&data, &[Some((0, usize::MAX)), Some((0, 0))]);
        assert_eq!(found[0].len(), INLINED_MAX);
        assert!(found[1].is_empty());
        for cut in 0..data.len() {
            assert!(find(&data[..cut], &[Some((0, usize::MAX))]) == [vec![]]);
        }
        assert!(find(&[1, 0xff, 0xff, 0xff, 0xff, 0x0f], &[Some((0, 0))]) == [vec![]]);
        assert!(find(&postcard::to_stdvec(&Lines { version: 2, ..made }).unwrap(), &[Some((0, usize::MAX))]) == [vec![]]);
    }
}
