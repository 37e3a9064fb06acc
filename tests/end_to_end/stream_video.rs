//! Video as its users have it: cameras and encoders into `cloudskin stream ingest`, a browser that plays it, pictures, and a model that sees it.

use crate::dashboard::Browser;
use crate::platform::{CLOUDSKIN, Platform, root, run};
use crate::streams::{Ends, Server, curl, first_line, http, is_here, until};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TEST_PICTURE: &str = "videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=30/1 ! openh264enc gop-size=30 ! h264parse ! mpegtsmux";

/// The colours of an image's first and third bar, which are grey and cyan in the test picture.
fn bars(image: &Path) -> [[u8; 3]; 2] {
    let raw = image.with_extension("raw");
    let decode = format!("filesrc location={} ! decodebin ! videoconvert ! video/x-raw,format=RGB,width=320,height=240 ! filesink location={}", image.display(), raw.display());
    run(Command::new("gst-launch-1.0").arg("-q").args(decode.split(' ')));
    let pixels = std::fs::read(raw).unwrap();
    assert_eq!(pixels.len(), 320 * 240 * 3);
    [20, 110].map(|x| pixels[(60 * 320 + x) * 3..][..3].try_into().unwrap())
}

fn sees_bars(image: &Path) {
    let [grey, cyan] = bars(image);
    assert!(grey.iter().all(|c| *c > 120) && grey[0].abs_diff(grey[2]) < 40, "{grey:?}");
    assert!(cyan[0] < 80 && cyan[1] > 120 && cyan[2] > 120, "{cyan:?}");
}

#[test]
fn a_camera_is_taken_in_and_played_in_a_browser() {
    let server = Server::start(&["--http", "127.0.0.1:0"]);
    let video = format!("{}/video/s/camera", http(&server.folder.path().join("streams")));
    let encode = "videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=30/1 ! openh264enc gop-size=30 ! h264parse ! mpegtsmux ! fdsink";
    let mut camera = Command::new("gst-launch-1.0").arg("-q").args(encode.split(' ')).stdout(Stdio::piped()).spawn().expect("gst-launch-1.0; `setup/setup.sh test` installs it");
    let mut ingest = server.cli(&["ingest", "s/camera"]).stdin(camera.stdout.take().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    let playlist = || String::from_utf8_lossy(&curl(&format!("{video}/live.m3u8"))).into_owned();
    until("four parts of video", || playlist().matches("#EXTINF").count() >= 4);
    let list = playlist();
    let durations: Vec<f64> = list.lines().filter_map(|l| l.strip_prefix("#EXTINF:")?.trim_end_matches(',').parse().ok()).collect();
    assert!(durations.iter().all(|d| (0.9..1.1).contains(d)), "a picture to begin with each 30 pictures: {durations:?}");
    // Each part is whole packets, and the second one can be decoded without the first.
    let name = list.lines().filter(|l| l.ends_with(".ts")).nth(1).unwrap();
    let part = curl(&format!("{video}/{name}"));
    assert!(part.len() > 188 && part.len() % 188 == 0 && part.chunks(188).all(|p| p[0] == 0x47), "{} bytes", part.len());
    let file = server.folder.path().join("part.ts");
    std::fs::write(&file, &part).unwrap();
    let count = format!("filesrc location={} ! tsdemux ! h264parse ! openh264dec ! fakesink silent=false", file.display());
    let decoded = run(Command::new("gst-launch-1.0").arg("-v").args(count.split(' ')));
    let pictures = decoded.lines().filter(|l| l.contains("chain")).count();
    assert!((28..=30).contains(&pictures), "{pictures} pictures in a part of a second\n{decoded}");
    if let Some(browser) = Browser::start() {
        browser.open(&format!("{video}/"));
        browser.wait(|| format!("the video to play: {}", browser.js("return document.getElementById('told').textContent")), || browser.js("const v = document.querySelector('video'); return v.videoWidth === 320 && v.currentTime > 0.5") == true);
        // The test picture's first bar is grey and its third one cyan.
        let colours = browser.js("const v = document.querySelector('video'), c = document.createElement('canvas'); c.width = 320; c.height = 240; const x = c.getContext('2d'); x.drawImage(v, 0, 0); return [20, 110].map((at) => [...x.getImageData(at, 60, 1, 1).data.slice(0, 3)])");
        let at = |bar: usize, part: usize| colours[bar][part].as_i64().unwrap();
        assert!((at(0, 0) - at(0, 2)).abs() < 40 && at(0, 0) > 120, "{colours}");
        assert!(at(1, 0) < 80 && at(1, 1) > 120 && at(1, 2) > 120, "{colours}");
        browser.picture("video");
        // From a time on: there, and not where it grows.
        let from = || String::from_utf8_lossy(&curl(&format!("{video}/from.m3u8?at=0"))).into_owned();
        until("a history to play", || from().matches("#EXTINF").count() >= 15);
        let date = from().lines().find_map(|l| l.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:")).unwrap().to_string();
        browser.js(&format!(
            "const first = new Date('{date}'), at = document.getElementById('at'); first.setMinutes(first.getMinutes() - first.getTimezoneOffset()); at.value = first.toISOString().slice(0, 19); at.form.requestSubmit()"
        ));
        let place = "const v = document.querySelector('video'); return [v.currentTime, v.duration]";
        browser.wait(|| format!("the history to play: {}", browser.js(place)), || browser.js("const v = document.querySelector('video'); return v.src.includes('from') && v.videoWidth === 320 && !v.seeking && v.currentTime > 1") == true);
        let there = browser.js(place);
        let (at, end) = (there[0].as_f64().unwrap(), there[1].as_f64().unwrap());
        assert!(at < 6.0 && end > 12.0, "it plays at {at} s of {end}");
        // And behind that what has come meanwhile.
        browser.js("const v = document.querySelector('video'); v.dataset.before = v.src; v.currentTime = v.duration - 1");
        browser.wait(|| format!("the rest to play: {}", browser.js(place)), || browser.js("const v = document.querySelector('video'); return v.src !== v.dataset.before && !v.seeking && v.currentTime > 0.5") == true);
        // The same for a browser that plays no HLS by itself, with the page's own player: live, from a time on, and what comes behind that.
        browser.open(&format!("{video}/?mse"));
        let told = || browser.js("const v = document.querySelector('video'); return [document.getElementById('told').textContent, v.src, v.videoWidth, v.currentTime, v.duration]");
        let plays = "const v = document.querySelector('video'); return v.src.startsWith('blob:') && v.videoWidth === 320 && !v.seeking && ";
        browser.wait(|| format!("the page to play by itself: {}", told()), || browser.js(&format!("{plays} v.getVideoPlaybackQuality().totalVideoFrames > 60 && v.currentTime > 2")) == true);
        browser.picture("video-mse");
        browser.open(&format!("{video}/?mse&at=0"));
        browser.wait(|| format!("the history to play by itself: {}", told()), || browser.js(&format!("{plays} v.currentTime > 1 && v.duration > 12 && isFinite(v.duration)")) == true);
        browser.js("const v = document.querySelector('video'); v.dataset.before = v.src; v.currentTime = v.duration - 1");
        browser.wait(|| format!("the rest to play by itself: {}", told()), || browser.js(&format!("{plays} v.src !== v.dataset.before && v.currentTime > 0.5")) == true);
    }
    // Pravega's own client reads it in the format that Pravega's GStreamer plugin publishes, and what it reads can be decoded.
    if is_here("pravega") {
        let read = server.folder.path().join("read.ts");
        run(&mut server.wheel(&["plugin", "s", "camera", read.to_str().unwrap()]));
        let count = format!("filesrc location={} ! tsdemux ! h264parse ! openh264dec ! fakesink silent=false", read.display());
        let decoded = run(Command::new("gst-launch-1.0").arg("-v").args(count.split(' ')));
        assert!(decoded.lines().filter(|l| l.contains("chain")).count() > 85, "{decoded}");
    }
    // A clip of a time, and the history from a time on.
    let began = list.lines().find_map(|l| l.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:")).unwrap().to_string();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let clip = curl(&format!("{video}/clip.ts?from={}&to={now}", now - 2500));
    assert!(clip.len() % 188 == 0 && clip.len() > part.len(), "{} bytes", clip.len());
    let from = String::from_utf8_lossy(&curl(&format!("{video}/from.m3u8?at=0"))).into_owned();
    assert!(from.contains(&began) && from.contains("PLAYLIST-TYPE:EVENT") && from.contains("#EXT-X-START:TIME-OFFSET=0") && !from.contains("ENDLIST"), "{from}");
    camera.kill().unwrap();
    camera.wait().unwrap();
    assert!(ingest.wait().unwrap().success());
    run(&mut server.cli(&["seal", "s/camera"]));
    until("the end to be told", || playlist().contains("#EXT-X-ENDLIST"));
}

#[test]
fn video_of_other_codecs_is_taken_in_frame_by_frame() {
    let server = Server::start(&["--http", "127.0.0.1:0"]);
    for (name, encode) in [("mpeg2", "mpeg2enc bitrate=1000 ! mpegvideoparse"), ("h265", "x265enc key-int-max=15 tune=zerolatency ! h265parse")] {
        let encode = format!("videotestsrc num-buffers=90 pattern=smpte ! video/x-raw,width=320,height=240,framerate=30/1 ! {encode} ! mpegtsmux ! fdsink");
        let mut camera = Command::new("gst-launch-1.0").arg("-q").args(encode.split(' ')).stdout(Stdio::piped()).spawn().unwrap();
        let told = server.cli(&["ingest", &format!("s/{name}")]).stdin(camera.stdout.take().unwrap()).output().unwrap();
        assert!(camera.wait().unwrap().success());
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let frames: u64 = told.strip_prefix(&format!("s/{name}: ")).and_then(|t| t.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{told}"));
        assert_eq!(frames, 90, "{name}");
        // Each part begins with a picture that needs no other.
        run(&mut server.cli(&["seal", &format!("s/{name}")]));
        let list = String::from_utf8_lossy(&curl(&format!("{}/video/s/{name}/from.m3u8?at=0", http(&server.folder.path().join("streams"))))).into_owned();
        assert!(list.matches("#EXTINF").count() >= 4 && list.contains("ENDLIST"), "{list}");
    }
}

#[test]
fn a_network_camera_is_taken_in_and_its_pictures_come_out_as_images() {
    let server = Server::start(&["--http", "127.0.0.1:0"]);
    let mut camera = Ends(Command::new("/usr/bin/python3").arg(root().join("tests/streams/camera.py")).stdout(Stdio::piped()).spawn().unwrap());
    let url = first_line(&mut camera.0);
    let mut ingest = server.cli(&["ingest", "s/camera", "--rtsp", &url]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(first_line(&mut ingest), "s/camera: the camera plays");
    let mut ingest = Ends(ingest);
    let video = format!("{}/video/s/camera", http(&server.folder.path().join("streams")));
    let playlist = || String::from_utf8_lossy(&curl(&format!("{video}/live.m3u8"))).into_owned();
    until("three parts of video", || playlist().matches("#EXTINF").count() >= 3);
    let durations: Vec<f64> = playlist().lines().filter_map(|l| l.strip_prefix("#EXTINF:")?.trim_end_matches(',').parse().ok()).collect();
    assert!(durations.iter().all(|d| (0.8..1.2).contains(d)), "a picture to begin with each 30 pictures: {durations:?}");
    for (name, magic) in [("frame.jpg", &[0xff, 0xd8, 0xff][..]), ("frame.png", b"\x89PNG")] {
        let image = curl(&format!("{video}/{name}"));
        assert!(image.starts_with(magic), "{name}: {}", String::from_utf8_lossy(&image));
        let file = server.folder.path().join(name);
        std::fs::write(&file, image).unwrap();
        sees_bars(&file);
    }
    // Pictures of two times are two pictures: the corner of the test picture is noise.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let at = |ms: u64| curl(&format!("{video}/frame.png?at={ms}"));
    assert!(at(now - 1500) == at(now - 1500) && at(now - 1500) != at(now - 1300));
    // A camera that has gone is said, with how much there is of it.
    camera.0.kill().unwrap();
    assert!(ingest.0.wait().unwrap().code().is_some());
    let refused = server.cli(&["ingest", "s/camera", "--rtsp", &url]).output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("camera"), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn a_camera_that_asks_who_is_there_is_told() {
    let server = Server::start(&[]);
    for method in ["basic", "digest"] {
        let mut camera = Ends(Command::new("/usr/bin/python3").arg(root().join("tests/streams/camera.py")).args([method, "ada", "1111_aaaa"]).stdout(Stdio::piped()).spawn().unwrap());
        let url = first_line(&mut camera.0);
        let stream = format!("s/{method}");
        let with = |user: &str| server.cli(&["ingest", &stream, "--rtsp", &url.replace("rtsp://", &format!("rtsp://{user}"))]);
        for user in ["", "ada:1111_aaab@", "eve:1111_aaaa@"] {
            let refused = with(user).output().unwrap();
            let why = String::from_utf8_lossy(&refused.stderr);
            assert!(refused.status.code() == Some(77) && why.contains("camera") && !why.contains("1111"), "{method}, {user:?}: {why}");
        }
        // Not on the command line, where all of the machine see it.
        let mut ingest = with("ada@").env("CLOUDSKIN_CAMERA_PASSWORD", "1111_aaaa").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(first_line(&mut ingest), format!("{stream}: the camera plays"));
        let _ingest = Ends(ingest);
        until("pictures", || server.cli(&["stat", &stream, "-o", "json"]).output().is_ok_and(|o| serde_json::from_slice::<serde_json::Value>(&o.stdout).is_ok_and(|s| s["segments"][0]["length"].as_u64() > Some(10_000))));
    }
}

/// What the recipe of the container for models starts, in a container that has what the recipe says: its copies at their places, its user, its entry, nothing of ours besides,
/// and this machine's `/usr` for the base and the packages. Where no container starts, the entry as it is. With `CLOUDSKIN_CONTAINER`, what that starts: a container that was
/// built by the recipe (`tests/streams/container.sh`).
fn inference(model: &Path, environment: &[(&str, &str)]) -> Command {
    if let Some(container) = std::env::var_os("CLOUDSKIN_CONTAINER") {
        let mut command = Command::new(container);
        command.arg("--volume").arg(format!("{}:/model/model.py:ro", model.display()));
        command.args(environment.iter().flat_map(|(name, value)| ["--env".to_string(), format!("{name}={value}")]));
        return command;
    }
    let contained = |arguments: &[&str]| {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--clearenv", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
        command.args(["--ro-bind", "/usr", "/usr", "--tmpfs", "/usr/local", "--ro-bind", "/etc", "/etc", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]);
        for link in ["bin", "lib", "lib64", "sbin"] {
            command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
        }
        command.args(arguments);
        command
    };
    let mut command = if contained(&["true"]).output().is_ok_and(|o| o.status.success()) {
        let recipe = std::fs::read_to_string(root().join("deploy/inference/Containerfile")).unwrap();
        let lines = |word: &'static str| recipe.lines().filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '));
        let mut command = contained(&["--ro-bind", model.to_str().unwrap(), "/model/model.py"]);
        for copy in lines("COPY") {
            let (sources, to) = copy.rsplit_once(' ').unwrap();
            for source in sources.split(' ') {
                let at = if to.ends_with('/') { format!("{to}{}", source.rsplit('/').next().unwrap()) } else { to.to_string() };
                command.arg("--ro-bind").arg(if source == "target/release/cloudskin" { PathBuf::from(CLOUDSKIN) } else { root().join(source) }).arg(at);
            }
        }
        assert_eq!(lines("USER").collect::<Vec<_>>(), ["nobody"]);
        command.args(["--uid", "65534", "--gid", "65534"]);
        for (name, value) in environment {
            command.args(["--setenv", name, value]);
        }
        let entry: Vec<String> = serde_json::from_str(lines("ENTRYPOINT").next().unwrap()).unwrap();
        command.args(entry);
        command
    } else {
        println!("no container starts here: the model runs without one");
        let mut command = Command::new(root().join("deploy/inference/run"));
        let path = std::env::join_paths([Path::new(CLOUDSKIN).parent().unwrap().to_path_buf()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
        command.env("PATH", path).env("MODEL", model);
        command
    };
    command.envs(environment.iter().copied());
    command
}

#[test]
fn an_encoder_sends_video_by_http_and_a_model_sees_it() {
    let server = Server::start(&["--http", "127.0.0.1:0"]);
    let mut ingest = server.cli(&["ingest", "s/camera", "--http", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let url = first_line(&mut ingest).split(' ').next_back().unwrap().to_string();
    let _ingest = Ends(ingest);
    assert_eq!(run(Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])), "405");
    let model = server.folder.path().join("model.py");
    std::fs::write(&model, "def answer(picture):\n    at = (picture.width * picture.height // 4 + picture.width // 3) * 3\n    print('not an answer')\n    return {'time': picture.time, 'at': list(picture.rgb[at:at + 3])}\n").unwrap();
    run(&mut server.cli(&["create", "s/seen"]));
    let encode = format!("{TEST_PICTURE} ! fdsink");
    let mut camera = Ends(Command::new("gst-launch-1.0").arg("-q").args(encode.split(' ')).stdout(Stdio::piped()).spawn().unwrap());
    let mut encoder = Ends(Command::new("curl").args(["-s", "-T", "-", &url]).stdin(camera.0.stdout.take().unwrap()).stdout(Stdio::null()).spawn().unwrap());
    let video = format!("{}/video/s/camera", http(&server.folder.path().join("streams")));
    let parts = || String::from_utf8_lossy(&curl(&format!("{video}/from.m3u8?at=0"))).matches("#EXTINF").count();
    until("two parts of video", || parts() >= 2);
    let _inference = Ends(inference(&model, &[("FROM", "s/camera"), ("TO", "s/seen"), ("SERVER", &server.ports[0]), ("CLOUDSKIN_INFER_SIZE", "160x120")]).stderr(Stdio::null()).spawn().unwrap());
    let seen = || -> Vec<serde_json::Value> { run(&mut server.cli(&["read", "s/seen"])).lines().map(|l| serde_json::from_str(l).unwrap()).collect() };
    until("what the model says", || seen().len() >= 30);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let said = seen();
    let times: Vec<f64> = said.iter().map(|s| s["time"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times.iter().all(|t| (now - 60.0..now + 1.0).contains(t)), "{times:?}");
    // A third of the width is in the third bar.
    let cyan = |s: &serde_json::Value| s["at"][0].as_u64() < Some(80) && s["at"][1].as_u64() > Some(120) && s["at"][2].as_u64() > Some(120);
    assert!(said.iter().all(cyan), "{said:?}");
    let second = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", &url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&second.stdout), "409", "one encoder at a time");
    camera.0.kill().unwrap();
    encoder.0.wait().unwrap();
    // An encoder that makes a request of each few packets, with pauses in the middle of pictures: the same video, and nothing of it is lost.
    let recorded = server.folder.path().join("recorded.ts");
    let record = format!("{} num-buffers=100 {} ! filesink location={}", "videotestsrc", TEST_PICTURE.strip_prefix("videotestsrc is-live=true").unwrap().trim(), recorded.display());
    run(Command::new("gst-launch-1.0").arg("-q").args(record.split(' ')));
    let video_in = std::fs::read(&recorded).unwrap();
    let bytes = || serde_json::from_slice::<serde_json::Value>(&curl(&format!("{}/v1/streams", http(&server.folder.path().join("streams"))))).unwrap()["streams"].as_array().unwrap().iter().find(|s| s["stream"] == "s/camera").unwrap()["bytes"].as_u64().unwrap();
    let (before, piece) = (bytes(), server.folder.path().join("piece"));
    for part in video_in.chunks(20_001) {
        std::fs::write(&piece, part).unwrap();
        assert_eq!(run(Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-T"]).arg(&piece).arg(&url)), "200");
    }
    // Each event has 20 bytes of its own, and there are more events than pictures.
    until("all of it", || bytes() >= before + video_in.len() as u64 + 100 * 20);
}

#[test]
fn encoders_send_video_by_tcp_and_the_dashboard_plays_it() {
    let platform = Platform::start_all(|up| {
        up.args(["--streams", "127.0.0.1:0"]);
    });
    let mut ingest = platform.command(&["stream", "ingest", "road/camera", "--tcp", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(ingest.stdout.take().unwrap()).lines().map(|l| l.unwrap());
    let _ingest = Ends(ingest);
    let waiting = lines.next().unwrap();
    let (host, port) = waiting.rsplit(' ').next().unwrap().rsplit_once(':').unwrap();
    let encoder = |source: &str| {
        let all = format!("{} ! tcpclientsink host={host} port={port}", TEST_PICTURE.replacen("is-live=true", source, 1));
        let mut command = Command::new("gst-launch-1.0");
        command.arg("-q").args(all.split(' '));
        command
    };
    // One that ends, and of which all is told; then another is taken, and adds to the stream.
    run(&mut encoder("num-buffers=90"));
    let told = lines.next().unwrap();
    let frames: u64 = told.strip_prefix("road/camera: ").and_then(|t| t.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{told}"));
    assert!(frames >= 90, "{told}");
    let _camera = Ends(encoder("is-live=true").spawn().unwrap());
    let log = std::fs::read_to_string(platform.data().join("up.json")).unwrap();
    let up: serde_json::Value = serde_json::from_str(&log).unwrap();
    let (hub, token) = (format!("http://{}", up["http"].as_str().unwrap()), std::fs::read_to_string(platform.data().join("hub/token")).unwrap());
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let ask = |path: &str, header: &str| Command::new("curl").args(["-s", "--path-as-is", "-w", "%{http_code}", "-H", header]).arg(format!("{hub}{path}")).output().unwrap().stdout;
    // The hub gives what the stream server gives, to those who may ask it.
    until("parts of both encoders", || String::from_utf8_lossy(&ask("/v1/video/road/camera/from.m3u8?at=0", &bearer)).matches("#EXTINF").count() >= 5);
    let picture = ask("/v1/video/road/camera/frame.jpg", &bearer);
    assert!(picture.starts_with(b"\xff\xd8\xff") && picture.ends_with(b"200"), "{}", String::from_utf8_lossy(&picture));
    for (path, header, answer) in [("/v1/video/road/camera/live.m3u8", "X-Token: none", "401"), ("/v1/video/road/none/live.m3u8", bearer.as_str(), "404"), ("/v1/video/../metrics", bearer.as_str(), "400"), ("/v1/video/%2e%2e/metrics", bearer.as_str(), "400")] {
        assert!(ask(path, header).ends_with(answer.as_bytes()), "{path}: {}", String::from_utf8_lossy(&ask(path, header)));
    }
    if let Some(browser) = Browser::start() {
        browser.open(&format!("{hub}/?token={}", token.trim()));
        browser.sees("[data-stream='road/camera']", &["Watch"]);
        browser.js("document.querySelector(\"[data-stream='road/camera'] .watch\").click()");
        let video = "document.getElementById('player-page').contentDocument?.querySelector('video')";
        browser.wait(|| format!("the video to play: {}", browser.js(&format!("return {video}?.error?.message"))), || browser.js(&format!("const v = {video}; return v?.videoWidth === 320 && v.currentTime > 0.5")) == true);
        browser.picture("player");
        browser.js("document.querySelector('#player button').click()");
        browser.wait(|| "the player to be gone".into(), || browser.js("return !document.getElementById('player').open && !document.getElementById('player-page').hasAttribute('src')") == true);
    }
}
