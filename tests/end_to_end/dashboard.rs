//! The dashboard in a real browser, while ranks move.
//!
//! The browser is Debian's Chromium, driven over WebDriver. What the tests look for is text, names for screen readers and keys; how the
//! page is made inside doesn't matter to them. Pictures of what they saw are in `target/tmp/dashboard-*.png`.

use crate::platform::{PATIENCE, Platform, program, root, run, scene, vegetation, compile, c_files};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DESK: (u32, u32) = (1280, 800);
const PHONE: (u32, u32) = (390, 844);
/// Keys as WebDriver writes them.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// A browser with one window. Dropped, it ends.
pub struct Browser {
    driver: Child,
    /// Of its session.
    url: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, with a line that says so, if the user wants to do without.
    pub fn start() -> Option<Browser> {
        if std::env::var_os("CLOUDSKIN_TEST_NO_BROWSER").is_some_and(|v| v == "1") {
            eprintln!("NOT RUN: CLOUDSKIN_TEST_NO_BROWSER=1");
            return None;
        }
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap_or_else(|e| {
            panic!("chromedriver: {e}; `setup/setup.sh test` installs it where it can; CLOUDSKIN_TEST_NO_BROWSER=1 leaves out the tests in a browser")
        });
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|l| l.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_string()));
        let base = format!("http://127.0.0.1:{}", port.expect("chromedriver tells its port"));
        let profile = tempfile::tempdir().unwrap();
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking", "--no-first-run",
                format!("--user-data-dir={}", profile.path().display()),
                // As on a machine without a network.
                "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ]},
        }}});
        let session = call("POST", &format!("{base}/session"), Some(&capabilities));
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {session:#}"));
        let browser = Browser { driver, url: format!("{base}/session/{id}"), _profile: profile };
        browser.size(DESK);
        Some(browser)
    }

    fn post(&self, path: &str, body: Value) -> Value {
        call("POST", &format!("{}/{path}", self.url), Some(&body))
    }

    fn devtools(&self, cmd: &str, params: Value) -> Value {
        self.post("goog/cdp/execute", json!({"cmd": cmd, "params": params}))
    }

    fn size(&self, (width, height): (u32, u32)) {
        self.devtools("Emulation.setDeviceMetricsOverride", json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}));
    }

    /// Opens a page; with the platform's address and token, as `cloudskin up` prints them.
    pub fn open(&self, address: &str) {
        self.post("url", json!({"url": address}));
    }

    /// What a script returns.
    pub fn js(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    /// The text that is to be seen below `selector`.
    fn text(&self, selector: &str) -> String {
        let script = format!("return [...document.querySelectorAll({})].filter(e => e.checkVisibility()).map(e => e.innerText ?? e.textContent).join('\\n')", json!(selector));
        self.js(&script).as_str().unwrap().to_string()
    }

    /// Waits until all of `words` are to be seen below `selector`.
    pub fn sees(&self, selector: &str, words: &[&str]) {
        let mut text = String::new();
        self.wait(|| format!("{words:?} in {selector}, where there is {:?}", self.text(selector)), || {
            text = self.text(selector);
            words.iter().all(|w| text.contains(w))
        });
    }

    pub fn wait(&self, what: impl Fn() -> String, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            if Instant::now() > end {
                self.picture("failed");
                panic!("waited {PATIENCE:?} in vain for {}", what());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The names that a screen reader has for the ranks which are shown at a site.
    fn ranks_at(&self, site: &str) -> Vec<String> {
        let script = "return [...document.querySelector('[aria-label=\"ranks at SITE\"]')?.querySelectorAll('[role=listitem]') ?? []].map(e => e.getAttribute('aria-label'))";
        let names = self.js(&script.replace("SITE", site));
        names.as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_string()).collect()
    }

    /// What the browser shows, as `target/tmp/dashboard-<name>.png`.
    pub fn picture(&self, name: &str) {
        let coded = call("GET", &format!("{}/screenshot", self.url), None);
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dashboard-{name}"));
        std::fs::write(file.with_extension("base64"), coded.as_str().unwrap()).unwrap();
        let png = Command::new("base64").arg("-d").arg(file.with_extension("base64")).output().unwrap().stdout;
        std::fs::remove_file(file.with_extension("base64")).unwrap();
        std::fs::write(file.with_extension("png"), png).unwrap();
    }

    fn press(&self, key: &str) {
        self.post("actions", json!({"actions": [{"type": "key", "id": "keys", "actions": [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]}]}));
    }

    /// Role and name of what has the keyboard, as a screen reader says them.
    fn focus(&self) -> (String, String) {
        let element = call("GET", &format!("{}/element/active", self.url), None);
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_string();
        let ask = |what: &str| call("GET", &format!("{}/element/{id}/{what}", self.url), None).as_str().unwrap().to_string();
        (ask("computedrole"), ask("computedlabel"))
    }

    /// Roles and names of all that a screen reader finds.
    fn spoken(&self) -> Vec<(String, String)> {
        let tree = self.devtools("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|n| n["ignored"] == false);
        nodes.map(|n| (n["role"]["value"].as_str().unwrap_or("").to_string(), n["name"]["value"].as_str().unwrap_or("").to_string())).collect()
    }

    /// The page had no errors, and asked nobody but the hub at `address`.
    fn was_clean(&self, address: &str) {
        let console = self.post("se/log", json!({"type": "browser"}));
        assert_eq!(console, json!([]), "the page's console");
        let log = self.post("se/log", json!({"type": "performance"}));
        for line in log.as_array().unwrap() {
            let event: Value = serde_json::from_str(line["message"].as_str().unwrap()).unwrap();
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let url = event["message"]["params"]["request"]["url"].as_str().unwrap();
                // The browser's own first page is none of ours.
                assert!([address, "data:", "chrome://"].iter().any(|own| url.starts_with(own)), "the page asks {url}");
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = Command::new("curl").args(["-sS", "--noproxy", "*", "-m", "10", "-X", "DELETE", &self.url]).output();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// One WebDriver call; the value that it answers.
fn call(method: &str, url: &str, body: Option<&Value>) -> Value {
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "-m", "60", "-X", method, "-H", "content-type: application/json"]);
    if let Some(body) = body {
        command.arg("--data-raw").arg(body.to_string());
    }
    let text = run(command.arg(url));
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{url}: {e}: {text}"));
    assert!(answer["value"]["error"].is_null(), "{url} {body:?}: {}", answer["value"]["message"]);
    answer["value"].clone()
}

/// The hub's address, and the same with the token.
fn addresses(platform: &Platform) -> (String, String) {
    let up: Value = serde_json::from_str(&std::fs::read_to_string(platform.data().join("up.json")).unwrap()).unwrap();
    let token = std::fs::read_to_string(up["token_file"].as_str().unwrap()).unwrap();
    let address = format!("http://{}/", up["http"].as_str().unwrap());
    (address.clone(), format!("{address}?token={}", token.trim()))
}

fn names(job: &str, ranks: std::ops::Range<u32>) -> Vec<String> {
    ranks.map(|r| format!("{job} rank {r}")).collect()
}

/// Waits until the page shows exactly these ranks at a site.
fn sees_ranks(browser: &Browser, site: &str, ranks: &[String]) {
    let shown = || browser.ranks_at(site);
    browser.wait(|| format!("{ranks:?} at {site}, where there is {:?}", shown()), || {
        let shown = shown();
        shown.len() == ranks.len() && ranks.iter().all(|r| shown.iter().any(|s| s.starts_with(r)))
    });
}

#[test]
fn ranks_are_seen_as_they_move() {
    let platform = Platform::start();
    let Some(browser) = Browser::start() else { return };
    let (address, entrance) = addresses(&platform);

    // An empty platform says so.
    browser.open(&entrance);
    browser.sees("main", &["edge", "cloud", "0 of 16 slots", "Nothing has moved yet.", "No job yet.", "Nothing is stored yet.", "site.ready"]);
    browser.sees("header", &["2 sites", "live"]);
    assert_eq!(browser.js("return location.href"), address.as_str(), "the token doesn't stay in the address");

    // A job at the edge. Pinned, so that nothing but this test moves it.
    platform.ok(&["store", "put", scene().to_str().unwrap(), "scenes/scene.tif", "--site", "edge"]);
    let job = platform.submit(&vegetation(), &["--np", "4", "--site", "edge", "--pinned", "--name", "vegetation"], &["--rounds", "28", "/scenes/scene.tif", "/out"]);
    let ranks = names(&job, 0..4);
    sees_ranks(&browser, "edge", &ranks);
    browser.sees("[data-site=edge]", &["4 of 16 slots"]);
    browser.sees("#jobs", &[&job, "vegetation", "running", "pinned", "4 ranks"]);
    browser.sees("#store", &["scenes", "780 KiB", "edge"]);
    browser.wait(|| format!("the edge's load, and not {:?}", browser.text("[data-site=edge]")), || {
        // Four ranks that compute want more than the edge has.
        let demand = browser.js("return document.querySelector('[data-site=edge] svg').getAttribute('aria-label')");
        let now = demand.as_str().unwrap().split_once("now ").and_then(|(_, rest)| rest.split(';').next()?.parse::<f64>().ok());
        now.is_some_and(|now| now > 0.5)
    });

    // Who sends to whom, as a picture and in words.
    browser.sees("#matrices", &[&job, "vegetation", "most from rank"]);
    let drawn = "return document.querySelectorAll('#matrices .pair').length";
    browser.wait(|| "a square for each pair that has exchanged messages".into(), || browser.js(drawn).as_u64().is_some_and(|pairs| (1..=16).contains(&pairs)));

    // It moves, and the page shows it while it does.
    let moving = platform.command(&["migrate", &job, "--to", "cloud", "--wait"]).stdout(Stdio::piped()).spawn().unwrap();
    browser.sees("#arcs", &[&format!("{job} is moving")]);
    browser.picture("moving");
    sees_ranks(&browser, "cloud", &ranks);
    sees_ranks(&browser, "edge", &[]);
    assert!(moving.wait_with_output().unwrap().status.success());
    let migration = platform.json(&["describe", "migration", "1"]);
    let downtime = migration["downtime_ms"].as_f64().unwrap();
    let downtime = if downtime < 1000.0 { format!("{downtime:.0} ms") } else { format!("{:.1} s", downtime / 1000.0) };
    browser.sees("#migrations", &[&job, "edge", "cloud", "done", &downtime, "asked for", "was sent while it ran"]);
    browser.sees("#events", &["migration.started", "migration.done", "job.started"]);
    browser.picture("moved");

    // And back, on a telephone: nothing is wider than the screen.
    browser.size(PHONE);
    browser.js("scrollTo(0, 0)");
    platform.ok(&["migrate", &job, "--to", "edge"]);
    browser.sees("#arcs", &[&format!("{job} is moving")]);
    browser.picture("moving-phone");
    sees_ranks(&browser, "edge", &ranks);
    assert_eq!(browser.js("return document.documentElement.scrollWidth"), json!(PHONE.0));
    browser.size(DESK);

    platform.succeeded(&job);
    browser.sees("#jobs", &[&job, "succeeded"]);
    let lanes = browser.js("return document.querySelector('#jobs svg').getAttribute('aria-label')");
    let lanes = lanes.as_str().unwrap();
    assert!(lanes.starts_with("rank 0 was at edge for ") && lanes.contains("then cloud for ") && lanes.matches("edge for").count() == 2, "{lanes}");
    sees_ranks(&browser, "edge", &[]);
    browser.was_clean(&address);
}

#[test]
fn advice_is_explained_and_everything_is_reached_by_keys() {
    let platform = Platform::start();
    let Some(browser) = Browser::start() else { return };
    let (address, entrance) = addresses(&platform);
    browser.open(&entrance);
    platform.ok(&["store", "put", scene().to_str().unwrap(), "scenes/scene.tif", "--site", "edge"]);
    let job = platform.submit(&vegetation(), &["--np", "4", "--site", "edge"], &["--rounds", "1000", "/scenes/scene.tif", "/out"]);
    let tenant = compile("tenant", &c_files(&root().join("examples/tenant")));
    platform.submit(&tenant, &["--np", "4", "--site", "edge", "--pinned", "--tenant", "another"], &["600"]);

    // The other tenant fills the edge; the page shows the advice, then the move that it became.
    browser.sees("#arcs", &[&format!("{job} is moving")]);
    browser.picture("advised");
    browser.sees("#recommendations", &[&job, "edge", "cloud", "taken"]);
    browser.sees("#migrations", &[&job, "recommendation 1"]);
    sees_ranks(&browser, "cloud", &names(&job, 0..4));
    browser.sees("#jobs", &["tenant another"]);
    browser.wait(|| format!("a forecast with an interval in {:?}", browser.text(".caption")), || {
        let text = browser.text("[data-site=edge] .caption");
        text.split_once("forecast ").is_some_and(|(_, rest)| rest.contains(" to "))
    });
    browser.sees("#events", &["recommendation.", "migration.done"]);

    // By keys alone: what can be reached has a name; Enter opens the explanation, which is the one that `explain` prints.
    browser.press(TAB);
    let mut reached = vec![browser.focus()];
    // The page draws headings, which name other things, in capitals.
    let events = |focus: &(String, String)| focus.1.eq_ignore_ascii_case("events");
    while reached.len() < 20 && !events(reached.last().unwrap()) {
        browser.press(TAB);
        reached.push(browser.focus());
        if reached.last().unwrap().1.contains(&job) {
            browser.press(ENTER);
        }
    }
    assert_eq!(reached[0], ("link".into(), "Skip to the sites".into()));
    assert!(reached.iter().any(|(_, name)| name.contains(&job)), "the recommendation is not reached: {reached:?}");
    assert!(events(reached.last().unwrap()), "the events are not reached: {reached:?}");
    assert!(reached.iter().all(|(_, name)| !name.is_empty()), "something has no name: {reached:?}");
    let told = platform.ok(&["explain", "1"]);
    let line = told.lines().map(str::trim).max_by_key(|l| l.len()).unwrap();
    browser.sees("#recommendations", &[line]);
    browser.js("document.querySelector('#h-recommendations').scrollIntoView()");
    browser.picture("explained");

    // For those who listen: parts have their headings, pictures and lists their names.
    let spoken = browser.spoken();
    let has = |role: &str, name: &str| assert!(spoken.iter().any(|(r, n)| r == role && n.to_lowercase().contains(&name.to_lowercase())), "no {role} {name:?} in {spoken:#?}");
    for heading in ["Sites", "Migrations", "Jobs", "Recommendations", "Object store", "Buckets", "Events"] {
        has("heading", heading);
    }
    has("list", "ranks at cloud");
    has("listitem", &format!("{job} rank 0"));
    has("image", "demand per core");
    has("image", "rank 0 was at edge");
    has("table", "Jobs");
    has("table", "Object store");
    let nameless: Vec<_> = spoken.iter().filter(|(role, name)| ["image", "link", "button", "table", "log", "list"].contains(&role.as_str()) && name.is_empty()).collect();
    assert!(nameless.is_empty(), "without a name: {nameless:?}");
    browser.was_clean(&address);
}

#[test]
fn the_object_stores_tiers_are_shown_as_the_nodes_have_them() {
    let bucket = tempfile::tempdir().unwrap();
    let objects = bucket.path().join("objects");
    let platform = Platform::start_with(|up| {
        up.env("CLOUDSKIN_GEDS__PERSIST", format!("file:{}", bucket.path().display())).env("CLOUDSKIN_GEDS__MEMORY", "64MiB");
        up.env("CLOUDSKIN_GEDS__BUCKETS", r#"{ quick = { tier = "memory" }, late = { mode = "write-behind" } }"#);
    });
    let Some(browser) = Browser::start() else { return };
    let (address, entrance) = addresses(&platform);
    let put = |object: &str, mib: usize| {
        let file = platform.data().join("to-put");
        std::fs::write(&file, vec![7; mib << 20]).unwrap();
        platform.ok(&["store", "put", file.to_str().unwrap(), object, "--site", "edge"]);
    };
    browser.open(&entrance);
    browser.sees("[data-tiers=edge]", &["0 B of 10.0 GiB", "0 B of 64.0 MiB", "works"]);
    put("data/kept", 3);
    put("data/spilled", 5);
    put("quick/here", 2);
    browser.sees("[data-tiers=edge]", &["8.0 MiB of 10.0 GiB", "2.0 MiB of 64.0 MiB"]);
    browser.sees("[data-tiers=edge] .objects", &["3"]);
    platform.ok(&["store", "spill", "data/spilled"]);
    browser.sees("[data-tiers=edge]", &["3.0 MiB of 10.0 GiB", "1 object uploaded (5.0 MiB), 1 left the site"]);
    // A cell at the other site opens what lies here; each site counts its own.
    platform.ok(&["store", "put", scene().to_str().unwrap(), "scenes/scene.tif", "--site", "edge"]);
    let job = platform.submit(&vegetation(), &["--np", "1", "--site", "cloud"], &["--rounds", "1", "/scenes/scene.tif", "/out"]);
    platform.succeeded(&job);
    browser.sees("[data-tiers=cloud] .opens", &["1 fetched"]);

    // The store behind it fails: what is owed waits, and the page says so.
    std::fs::rename(&objects, bucket.path().join("away")).unwrap();
    std::fs::write(&objects, b"no folder").unwrap();
    put("late/owed", 1);
    browser.sees("[data-tiers=edge] .persistency", &["fails"]);
    browser.sees("[data-tiers=edge] .queue", &["1"]);
    browser.js("document.querySelector('#h-tiers').scrollIntoView()");
    browser.picture("tiers");
    browser.size(PHONE);
    browser.js("document.querySelector('#h-tiers').scrollIntoView()");
    browser.picture("tiers-phone");
    assert_eq!(browser.js("return document.documentElement.scrollWidth"), json!(PHONE.0));
    browser.size(DESK);
    std::fs::remove_file(&objects).unwrap();
    std::fs::rename(bucket.path().join("away"), &objects).unwrap();
    browser.sees("[data-tiers=edge] .persistency", &["works", "2 objects uploaded (6.0 MiB)"]);

    let spoken = browser.spoken();
    for (role, name) in [("table", "object store"), ("rowheader", "edge"), ("columnheader", "persistency tier")] {
        assert!(spoken.iter().any(|(r, n)| r == role && n.to_lowercase() == name), "no {role} {name:?} in {spoken:#?}");
    }
    browser.was_clean(&address);
}

/// A process that does nothing for a while.
struct Stopped(i32);
impl Stopped {
    fn new(pid: i32) -> Stopped {
        run(Command::new("kill").args(["-STOP", &pid.to_string()]));
        Stopped(pid)
    }
}
impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0.to_string()]).status();
    }
}

#[test]
fn what_is_lost_or_fails_is_named() {
    let platform = Platform::start();
    let Some(browser) = Browser::start() else { return };
    let (address, entrance) = addresses(&platform);

    // Without the token nothing is shown but what to do.
    browser.open(&address);
    browser.sees("[role=alert]", &["needs the hub's token", "cloudskin up"]);
    assert_eq!(browser.text("main"), "");
    browser.post("se/log", json!({"type": "browser"})); // the refusals

    browser.open(&entrance);
    browser.sees("header", &["2 sites", "live"]);
    let failed = platform.submit(&program("trap"), &["--np", "2", "--site", "edge"], &[]);
    platform.ended(&failed);
    browser.sees("#jobs", &[&failed, "failed", "rank 1"]);
    browser.sees("#events", &["job.ended", "failed"]);

    let stopped = Stopped::new(platform.pid("cloud"));
    browser.sees("[data-site=cloud]", &["lost", "last seen"]);
    browser.sees("#events", &["site.lost"]);
    browser.picture("lost");
    drop(stopped);
    platform.kill("edge");
    browser.sees("[data-site=cloud]", &["ready"]);
    browser.wait(|| "the killed edge to be back".into(), || browser.text("#events").matches("site.ready").count() >= 4 && browser.text("[data-site=edge] .badge") == "ready");
    browser.was_clean(&address);

    let stopped = Stopped::new(platform.pid("hub"));
    browser.sees("[role=alert]", &["The hub does not answer.", "cloudskin up"]);
    browser.sees("header", &["hub does not answer"]);
    browser.picture("hub-lost");
    drop(stopped);
    browser.sees("header", &["live"]);
    assert_eq!(browser.text("[role=alert]"), "");
}
