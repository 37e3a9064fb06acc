use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Discard, Mounts};
use cells::{Engine, engine, folder::Folder, local};
use std::{path::Path, process::Command, sync::Arc};

fn cpu(who: i32) -> f64 {
    let mut r: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(who, &mut r) };
    let t = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    t(r.ru_utime) + t(r.ru_stime)
}

#[test]
fn zz_bench() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let out = Path::new("/tmp/w1bench");
    std::fs::create_dir_all(out).unwrap();
    let engine = Engine::new(&engine::Options { cells_max: 4, ..Default::default() }).unwrap();
    let veg: Vec<String> = "vegetation.c indices.c window.c tiff.c codec.c png.c".split(' ').map(|f| format!("examples/vegetation/{f}")).collect();
    let p = |n: &str| vec![format!("tests/programs/{n}.c")];
    let mut all: Vec<(&str, Vec<String>, Vec<String>)> = vec![
        ("heat", p("heat"), vec!["2000".into(), "512".into()]),
        ("matmul", p("matmul"), vec!["768".into(), "2".into()]),
        ("cg", p("cg"), vec!["1500".into(), "256".into()]),
        ("mandelbrot", p("mandelbrot"), vec!["800".into(), "1000".into()]),
    ];
    if Path::new("/tmp/w1bench/scene.tif").exists() {
        all.push(("vegetation", veg, vec!["/tmp/w1bench/scene.tif".into(), "/tmp/w1bench/nout".into(), "--rounds".into(), "3".into()]));
    }
    let only = std::env::var("ONLY").unwrap_or_default();
    println!("program native cell ratio");
    for (name, sources, args) in all {
        if !only.is_empty() && !only.split(',').any(|o| o == name) { continue; }
        let native = out.join(name);
        let o = Command::new("mpicc").args(["-O3", "-march=x86-64-v2", "-ffp-contract=off", "-o"]).arg(&native).args(&sources).arg("-lm").current_dir(&root).output().unwrap();
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        let wasm = out.join(format!("{name}.wasm"));
        let mut a: Vec<std::ffi::OsString> = sources.iter().map(|s| root.join(s).into_os_string()).collect();
        a.extend(["-O3", "-o"].map(Into::into)); a.push(wasm.clone().into()); a.push("-lm".into());
        assert_eq!(driver::main(Lang::C, a).unwrap(), 0);
        let program = engine.load(&std::fs::read(&wasm).unwrap()).unwrap();
        let (mut n, mut c) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            let before = cpu(libc::RUSAGE_CHILDREN);
            let s = Command::new(&native).args(&args).env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").output().unwrap();
            assert!(s.status.success(), "{}", String::from_utf8_lossy(&s.stderr));
            n = n.min(cpu(libc::RUSAGE_CHILDREN) - before);
            let job = local::Job {
                size: 1,
                args: std::iter::once(name.to_string()).chain(args.iter().map(|a| a.replace("/tmp/w1bench", "/data"))).collect(),
                env: vec![], memory_max: 2 << 30,
                mounts: Mounts { folders: vec![("data".into(), Arc::new(Folder { root: out.into() }) as _)], workdir: None },
                output: Arc::new(Discard), spin: 0,
            };
            let before = cpu(libc::RUSAGE_SELF);
            let e = local::run(&engine, &program, &job).unwrap();
            assert_eq!(e, [cells::Ended::Exited(0)]);
            c = c.min(cpu(libc::RUSAGE_SELF) - before);
        }
        println!("{name} {n:.3} {c:.3} {:.2}", c / n);
    }
}
