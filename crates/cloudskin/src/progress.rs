//! Long work on a terminal is a bar; anywhere else it is a line when it is done.

use base::unit::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

pub fn terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A transfer of so many bytes. Small ones and those without a terminal show nothing.
pub fn bytes(what: &str, total: Option<u64>) -> ProgressBar {
    if !terminal() || total.is_some_and(|t| t < 1 << 20) {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_message(what.to_string());
    bar.with_style(style("{msg}  {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}"))
}

/// So many steps of something.
pub fn steps(total: u64) -> ProgressBar {
    if !terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(total).with_style(style("  {bar:30.green} {pos:>3}/{len} {elapsed:>4}  {msg}"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are constants").progress_chars("█▌ ")
}

pub fn moved(bytes: u64) -> String {
    Bytes(bytes).to_string()
}
