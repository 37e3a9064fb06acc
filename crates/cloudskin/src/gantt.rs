//! Where each rank was and when, as a line of characters per rank.
//!
//! ```text
//! rank 0  ████████████▒▒▒▒▒▒▒▒▒▒▒▒  edge 0.0–12.3 s, cloud 12.3–31.0 s
//! ```

use crate::api::Placement;
use std::fmt::Write;

const SIGNS: [char; 5] = ['█', '▒', '░', '▓', '▪'];

/// A line per rank and a legend. A placement without an end lasts until `end_ms`; sites get their signs in the order in which they
/// first appear.
pub fn gantt(placements: &[Placement], end_ms: u64, width: usize) -> String {
    let Some(start) = placements.iter().map(|p| p.from_ms).min() else { return String::new() };
    let end = placements.iter().filter_map(|p| p.to_ms).max().unwrap_or(0).max(end_ms).max(start + 1);
    let mut sorted: Vec<&Placement> = placements.iter().collect();
    sorted.sort_by_key(|p| (p.from_ms, p.rank));
    let mut sites: Vec<&str> = Vec::new();
    for p in &sorted {
        if !sites.contains(&p.site.as_str()) {
            sites.push(&p.site);
        }
    }
    let sign = |site: &str| SIGNS[sites.iter().position(|s| *s == site).unwrap_or(0) % SIGNS.len()];
    let column = |at: u64| ((at.clamp(start, end) - start) as u128 * width as u128 / (end - start) as u128) as usize;
    let seconds = |at: u64| at.saturating_sub(start) as f64 / 1e3;
    let mut ranks: Vec<u32> = placements.iter().map(|p| p.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let digits = ranks.last().map_or(1, |r| r.to_string().len());
    let mut out = String::new();
    for rank in ranks {
        let (mut bar, mut told) = (vec![' '; width], Vec::new());
        for p in sorted.iter().filter(|p| p.rank == rank) {
            let to = p.to_ms.unwrap_or(end);
            // However short a stay was, it is seen.
            let (a, b) = (column(p.from_ms).min(width - 1), column(to).max(column(p.from_ms) + 1).min(width));
            bar[a..b].fill(sign(&p.site));
            told.push(format!("{} {:.1}–{:.1} s", p.site, seconds(p.from_ms), seconds(to)));
        }
        let bar: String = bar.into_iter().collect();
        let _ = writeln!(out, "rank {rank:digits$}  {bar}  {}", told.join(", "));
    }
    let legend: Vec<String> = sites.iter().map(|s| format!("{} {s}", sign(s))).collect();
    let _ = writeln!(out, "{:w$}  {}", "", legend.join("   "), w = 5 + digits);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(rank: u32, site: &str, from_ms: u64, to_ms: Option<u64>) -> Placement {
        Placement { rank, site: site.into(), from_ms, to_ms }
    }

    #[test]
    fn a_move_reads_from_left_to_right() {
        let placements =
            [p(1, "edge", 1000, Some(11_000)), p(0, "edge", 1000, Some(6000)), p(0, "cloud", 6000, None)];
        let want = "rank 0  █████▒▒▒▒▒  edge 0.0–5.0 s, cloud 5.0–10.0 s\nrank 1  ██████████  edge 0.0–10.0 s\n        █ edge   ▒ cloud\n";
        assert_eq!(gantt(&placements, 11_000, 10), want.replace("\n        █", "\n        █"));
    }

    #[test]
    fn nothing_instants_and_clocks_that_step_back_do_not_break_it() {
        assert_eq!(gantt(&[], 5, 10), "");
        assert!(gantt(&[p(0, "edge", 5, Some(5))], 5, 10).contains('█'));
        assert!(gantt(&[p(0, "edge", 9, Some(3)), p(0, "cloud", 3, None)], 3, 10).contains('▒'));
    }
}
