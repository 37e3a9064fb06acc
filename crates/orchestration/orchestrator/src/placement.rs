//! Where ranks go. A function of what is asked and what is there; it does no input or output.

use base::unit::count;

/// A live site, as placement sees it.
#[derive(Clone, Debug)]
pub struct Room {
    pub site: String,
    pub slots: u32,
    /// Ranks that it holds now.
    pub held: u32,
}

impl Room {
    pub fn free(&self) -> u32 {
        self.slots.saturating_sub(self.held)
    }
}

/// The sites for people, at the end of an error.
pub fn list(rooms: &[Room]) -> String {
    let sites: Vec<_> = rooms.iter().map(|r| format!("{} ({} of {} slots free)", r.site, r.free(), r.slots)).collect();
    if sites.is_empty() { "no site is ready".to_string() } else { format!("ready sites: {}", sites.join(", ")) }
}

/// Whether `ranks` more ranks may go to the site `to`, or why not.
pub fn fits(ranks: u32, to: &str, rooms: &[Room]) -> Result<(), String> {
    let room = rooms.iter().find(|r| r.site == to).ok_or_else(|| format!("site {to:?} is not connected; {}", list(rooms)))?;
    if room.free() < ranks {
        let (ranks, verb) = (count(u64::from(ranks), "rank"), if ranks == 1 { "doesn't" } else { "don't" });
        return Err(format!("{ranks} {verb} fit at site {to:?}; {}", list(rooms)));
    }
    Ok(())
}

/// The site of each of `np` ranks, or why there is none. A named site takes all; otherwise the one with the fewest free
/// slots that still has room for all, and if none has, the ranks are spread over sites from the roomiest down.
pub fn place(np: u32, named: Option<&str>, rooms: &[Room]) -> Result<Vec<String>, String> {
    let free = Room::free;
    let list = || list(rooms);
    if let Some(name) = named {
        fits(np, name, rooms)?;
        return Ok(vec![name.to_string(); np as usize]);
    }
    if let Some(room) = rooms.iter().filter(|r| free(r) >= np).min_by_key(|r| (free(r), r.site.clone())) {
        return Ok(vec![room.site.clone(); np as usize]);
    }
    let mut sorted: Vec<&Room> = rooms.iter().collect();
    sorted.sort_by_key(|r| (std::cmp::Reverse(free(r)), r.site.clone()));
    let places: Vec<String> =
        sorted.iter().flat_map(|r| std::iter::repeat_n(r.site.clone(), free(r) as usize)).take(np as usize).collect();
    if places.len() < np as usize {
        let verb = if np == 1 { "needs" } else { "need" };
        return Err(format!("{} {verb} {}; {}", count(u64::from(np), "rank"), count(u64::from(np), "slot"), list()));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(np: u32, named: Option<&str>, expected: Result<&[&str], &str>) {
        let rooms = [("cloud", 4, 0), ("edge", 3, 1)].map(|(s, slots, held)| Room { site: s.into(), slots, held });
        match (place(np, named, &rooms), expected) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranks_go_where_there_is_room() {
        check(2, None, Ok(&["edge", "edge"]));
        check(3, None, Ok(&["cloud", "cloud", "cloud"]));
        check(5, None, Ok(&["cloud", "cloud", "cloud", "cloud", "edge"]));
        check(2, Some("cloud"), Ok(&["cloud", "cloud"]));
        check(7, None, Err("7 slots"));
        check(3, Some("edge"), Err("don't fit"));
        check(1, Some("moon"), Err("ready sites: cloud"));
    }
}
