//! examples/vegetation gives the same bytes wherever it runs, however often it moves, and the index that GRASS computes.

use crate::moves::Mover;
use crate::platform::{self, Platform, mpirun, native, root, run, scene, vegetation};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Enough for a job of several seconds, which has all of the example's phases: reading, rounds with halos, gathering, writing.
const ROUNDS: &str = "8";
/// Migrations that the output must survive.
const MIGRATIONS: usize = 200;

/// The program as Open MPI runs it, with the flags of its Makefile.
fn vegetation_native() -> PathBuf {
    let sources = platform::c_files(&root().join("examples/vegetation"));
    native("vegetation", &sources, &["-O3", "-std=gnu11", "-ffp-contract=off"])
}

/// What a run left: the SHA-256 of each file by its name, the table as it is, and what was printed but for its first line, which has the
/// scene's path.
type Left = BTreeMap<String, String>;

fn left(folder: &Path, printed: &str) -> Left {
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let mut left: Left = files.map(|f| (f.file_name().unwrap().to_str().unwrap().to_string(), digest(&f))).collect();
    let rest = printed.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_string());
    left.insert("printed".into(), rest);
    left
}

fn digest(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap();
    match String::from_utf8(bytes) {
        Ok(text) if file.extension().is_some_and(|e| e == "csv") => text,
        Ok(text) => hex(text.as_bytes()),
        Err(e) => hex(e.as_bytes()),
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Shows only what differs.
#[track_caller]
fn same(what: &str, actual: &Left, expected: &Left) {
    let names: BTreeSet<&String> = actual.keys().chain(expected.keys()).collect();
    let mut differ = String::new();
    for name in names.into_iter().filter(|n| actual.get(*n) != expected.get(*n)) {
        let lines = |left: &Left| left.get(name).map_or(vec!["missing".to_string()], |t| t.lines().map(str::to_string).collect());
        let (a, e) = (lines(actual), lines(expected));
        differ += &format!("{name}:\n");
        for (a, e) in (0..a.len().max(e.len())).map(|i| (a.get(i), e.get(i))).filter(|(a, e)| a != e) {
            differ += &format!("  {}\n    instead of {}\n", a.map_or("nothing", |a| a), e.map_or("nothing", |e| e));
        }
    }
    assert!(differ.is_empty(), "{what}: it differs from Open MPI's\n{differ}");
}

fn result(platform: &Platform, job: &str, bucket: &str) -> Left {
    platform.succeeded(job);
    let folder = tempfile::tempdir().unwrap();
    for object in platform.json(&["store", "ls", &format!("{bucket}/")]).as_array().unwrap() {
        let key = object["key"].as_str().unwrap();
        platform.ok(&["store", "get", &format!("{bucket}/{key}"), folder.path().join(key).to_str().unwrap()]);
    }
    left(folder.path(), &platform.ok(&["logs", job]))
}

/// Starts the program on the scene that was put into the store.
fn submit(platform: &Platform, np: u32, site: &str, bucket: &str) -> String {
    let options = ["--pinned", "--np", &np.to_string(), "--site", site];
    platform.submit(&vegetation(), &options, &["/scenes/scene.tif", &format!("/{bucket}"), "--rounds", ROUNDS])
}

fn platform_with_scene() -> Platform {
    let platform = Platform::start();
    platform.ok(&["store", "put", scene().to_str().unwrap(), "scenes/scene.tif", "--site", "edge"]);
    platform
}

#[test]
fn the_output_is_the_same_wherever_it_runs_and_however_often_it_moves_slow() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let printed = run(mpirun(4, &vegetation_native()).arg(scene()).arg(&out).args(["--rounds", ROUNDS]));
    let expected = left(&out, &printed);
    assert!(expected.len() == 20 && expected["printed"].contains(&format!("round {ROUNDS}/{ROUNDS} ")), "{expected:#?}");

    let platform = platform_with_scene();
    let stay: Vec<_> = [(4, "edge"), (1, "cloud"), (3, "cloud")]
        .map(|(np, site)| (np, submit(&platform, np, site, &format!("stay-{np}")))).into();
    for (np, job) in stay {
        same(&format!("{np} ranks that stay"), &result(&platform, &job, &format!("stay-{np}")), &expected);
    }

    let mut mover = Mover::new("vegetation");
    let mut jobs = 0;
    while mover.done.len() < MIGRATIONS {
        jobs += 1;
        let bucket = format!("moved-{jobs}");
        let job = submit(&platform, 4, if jobs % 2 == 0 { "cloud" } else { "edge" }, &bucket);
        while mover.move_some(&platform, &job) {
            mover.pause(Duration::from_millis(60));
        }
        same(&format!("{job} after {} migrations", mover.done.len()), &result(&platform, &job, &bucket), &expected);
    }
    mover.report(&format!("vegetation, {jobs} jobs with the same {} files", expected.len() - 1));
    assert!(mover.splits > 0, "no migration left a job at both sites");
}

/// Cells as the scene's owner and GRASS see them, by name of the map; missing ones are NaN.
type Maps = BTreeMap<&'static str, Vec<f64>>;

/// What GRASS makes of a scene and of our map of it. It reads both files itself.
fn grass(scene: &Path, red: &str, nir: &str, ours: &Path) -> Maps {
    const SCRIPT: &str = r#"set -e
r.in.gdal -o --quiet input="$SCENE" output=scene
r.in.gdal -o --quiet input="$OURS" output=ours
g.region raster=scene.$RED
r.mapcalc --quiet "red = double(scene.$RED)"
r.mapcalc --quiet "nir = double(scene.$NIR)"
i.vi --quiet viname=ndvi red=red nir=nir output=ndvi
i.vi --quiet viname=ndvi red=scene.$RED nir=scene.$NIR storage_bit=8 output=ndvi_of_bytes
for map in red nir ours ndvi ndvi_of_bytes; do
    r.out.bin --quiet -f input=$map bytes=8 order=little null=-9999 output="$OUT/$map"
done
"#;
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new("grass");
    command.args(["--tmp-location", "XY", "--exec", "sh", "-c", SCRIPT]);
    run(command.env("SCENE", scene).env("OURS", ours).env("RED", red).env("NIR", nir).env("OUT", out.path()));
    let read = |name| {
        let bytes = std::fs::read(out.path().join(name)).unwrap();
        let cells = bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        (name, cells.map(|v| if v == -9999.0 { f64::NAN } else { v }).collect())
    };
    ["red", "nir", "ours", "ndvi", "ndvi_of_bytes"].map(read).into()
}

/// The least scene that has everything: bands 3 and 4 of the real one with cells that are zero in both, and with missing ones.
fn scene_with_holes(to: &Path) {
    const SCRIPT: &str = r#"set -e
r.in.gdal -o --quiet input="$SCENE" output=scene
g.region raster=scene.3
for band in 3 4; do
    r.mapcalc --quiet "b$band = if(row() % 7 == 0 && col() % 5 == 0, 0, if(row() % 11 == $band, null(), scene.$band))"
done
i.group --quiet group=both input=b3,b4
r.out.gdal --quiet -c input=both output="$TO" format=GTiff type=Int16 nodata=-1
"#;
    run(Command::new("grass").args(["--tmp-location", "XY", "--exec", "sh", "-c", SCRIPT]).env("SCENE", scene()).env("TO", to));
}

#[test]
fn ndvi_equals_grass() {
    let platform = platform_with_scene();
    let folder = tempfile::tempdir().unwrap();
    let holes = folder.path().join("holes.tif");
    scene_with_holes(&holes);
    platform.ok(&["store", "put", holes.to_str().unwrap(), "scenes/holes.tif", "--site", "cloud"]);
    let holes_bands = "blue=0,green=0,red=1,nir=2,swir1=0,swir2=0";
    let cases = [("scene", scene(), "3", "4", "blue=1,green=2,red=3,nir=4"), ("holes", holes, "1", "2", holes_bands)];
    for (name, file, red, nir, bands) in cases {
        let args = [format!("/scenes/{name}.tif"), format!("/{name}-out")];
        let args = [&args[0], &args[1], "--rounds", "1", "--radius", "1", "--bands", bands];
        let job = platform.submit(&vegetation(), &["--np", "3"], &args);
        platform.succeeded(&job);
        let ours = folder.path().join(format!("{name}-ndvi.tif"));
        platform.ok(&["store", "get", &format!("{name}-out/ndvi.tif"), ours.to_str().unwrap()]);
        let maps = grass(&file, red, nir, &ours);
        assert_eq!((maps["ours"].len(), maps["ndvi"].len()), (349 * 352, 349 * 352));
        let (mut missing, mut zero) = (0, 0);
        for i in 0..maps["ours"].len() {
            let (red, nir, ours, theirs, of_bytes) = (maps["red"][i], maps["nir"][i], maps["ours"][i], maps["ndvi"][i], maps["ndvi_of_bytes"][i]);
            let place = format!("{name}: cell {i}: red {red}, nir {nir}: ours {ours}, GRASS {theirs}");
            if red.is_nan() || nir.is_nan() {
                missing += 1;
                assert!(ours.is_nan() && theirs.is_nan(), "{place}");
            } else if red + nir == 0.0 {
                // 0/0 has no value: both call it missing.
                zero += 1;
                assert!(ours.is_nan() && theirs.is_nan(), "{place}");
            } else {
                // Not one bit of tolerance: both divide doubles, whose sum and difference are exact, and round once to float32.
                assert!(ours == theirs, "{place}");
                // From bands of integers GRASS makes reflectances in float32 first; that costs it up to a unit in the last place of 1.
                assert!((ours - of_bytes).abs() <= f64::from(f32::EPSILON), "{place}, of bytes {of_bytes}");
            }
        }
        println!("{name}: {} cells equal GRASS, {missing} of them missing and {zero} zero in both bands", maps["ours"].len());
        assert_eq!((missing > 0, zero > 0), (name == "holes", name == "holes"), "{missing} missing, {zero} zero");
    }
}
