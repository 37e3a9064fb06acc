//! One picture of a video as an image. A tool that is there decodes it: GStreamer's or FFmpeg's; without either there are no images, and everything else.
//!
//! The tool gets the packets from the last picture that a player can begin with up to the one that is meant, and gives an image of each; the last one counts.

use crate::{Error, Result};
use bytes::Bytes;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::Semaphore,
};

/// Images that are made at once; the next ones wait.
static TURNS: Semaphore = Semaphore::const_new(2);
const TIME_MAX: Duration = Duration::from_secs(20);
/// All images of a part.
const IMAGES_MAX: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Jpeg,
    Png,
}

impl Form {
    /// With what an image begins.
    fn begin(self) -> &'static [u8] {
        match self {
            Form::Jpeg => &[0xff, 0xd8, 0xff],
            Form::Png => b"\x89PNG\r\n\x1a\n",
        }
    }

    pub fn media(self) -> &'static str {
        match self {
            Form::Jpeg => "image/jpeg",
            Form::Png => "image/png",
        }
    }
}

/// The tools, as they are called to read MPEG-TS and write images.
fn tools(form: Form) -> [(&'static str, Vec<&'static str>); 2] {
    let (encoder, codec) = match form {
        Form::Jpeg => ("jpegenc", "mjpeg"),
        Form::Png => ("pngenc", "png"),
    };
    let gstreamer = vec!["-q", "fdsrc", "fd=0", "!", "tsdemux", "!", "decodebin", "!", "videoconvert", "!", encoder, "!", "fdsink", "fd=1"];
    let ffmpeg = vec!["-loglevel", "error", "-f", "mpegts", "-i", "pipe:0", "-f", "image2pipe", "-c:v", codec, "pipe:1"];
    [("gst-launch-1.0", gstreamer), ("ffmpeg", ffmpeg)]
}

/// The last picture of some packets that begin with one that stands for itself.
pub async fn last(packets: Bytes, form: Form) -> Result<Bytes> {
    let _turn = TURNS.acquire().await.map_err(|e| Error::Invalid(e.to_string()))?;
    let mut failed = None;
    for (tool, arguments) in tools(form) {
        let spawned = Command::new(tool).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn();
        let Ok(mut child) = spawned else { continue };
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { continue };
        let (feed, mut images) = (packets.clone(), Vec::new());
        let feeding = async move {
            // A tool that has ended early says so by its images.
            let _ = input.write_all(&feed).await;
        };
        let mut output = output.take(IMAGES_MAX);
        let taking = output.read_to_end(&mut images);
        let read = tokio::time::timeout(TIME_MAX, async { tokio::join!(feeding, taking).1 }).await;
        match read.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut)).flatten() {
            Ok(_) => {
                let begin = form.begin();
                if let Some(at) = images.windows(begin.len()).rposition(|w| w == begin) {
                    return Ok(Bytes::from(images).slice(at..));
                }
                failed = Some(format!("{tool} found no picture in it; is a decoder for it installed?"));
            }
            Err(e) => failed = Some(format!("{tool}: {e}")),
        }
    }
    Err(match failed {
        Some(why) => Error::Invalid(format!("no image could be made: {why}")),
        None => Error::Unsupported("images are made by GStreamer's gst-launch-1.0 or by ffmpeg, and neither is installed here".into()),
    })
}
