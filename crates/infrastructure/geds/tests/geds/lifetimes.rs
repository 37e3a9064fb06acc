//! How long objects live: with their last name, until a time, with a job, with a process. And that copies go when nobody can name them.

use crate::common::{Installation, bucket, content, count, get, key, put, site};
use base::{Kind, unit::Bytes as Size};
use geds::{Attributes, BucketPolicy, Catalog, Mode, Page, PeerClient, Place};
use std::{
    path::Path,
    time::{Duration, Instant},
};

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < end, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("objects")).map_or(0, |entries| entries.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_goes_with_its_last_name() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let b = bucket("data");
    put(&edge, "first", &content(1, 5000)).await;
    let copy = edge.copy_object(&b, &key("first"), &b, &key("second"), false).await.unwrap();
    assert_eq!((count(&edge), copy.key.as_str()), (1, "second"));
    assert_eq!(edge.copy_object(&b, &key("first"), &b, &key("second"), true).await.unwrap_err().kind(), Kind::AlreadyExists);
    edge.delete(&b, &key("first")).await.unwrap();
    assert_eq!(get(&edge, "first").await.unwrap_err().kind(), Kind::NotFound);
    assert!(get(&edge, "second").await.unwrap().bytes() == content(1, 5000), "it has a name still");
    // A sweep asks about each id, and this one has a name.
    edge.sweep().await.unwrap();
    assert!(get(&edge, "second").await.unwrap().bytes() == content(1, 5000));
    edge.delete(&b, &key("second")).await.unwrap();
    assert_eq!((count(&edge), edge.used_bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_01_what_loses_its_name_in_bulk_is_freed_everywhere() {
    let here = Installation::new().await.with_folder_persist();
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    let b = bucket("data");
    for n in 0..20 {
        put(&edge, &format!("run/{n}"), &content(n, 3000)).await;
    }
    put(&edge, "runner", b"another folder").await;
    get(&cloud, "run/3").await.unwrap();
    edge.spill(&b, "run/4").await.unwrap();
    edge.flush(&b, "run/5", Duration::from_secs(20)).await.unwrap();
    assert_eq!((count(&edge), count(&cloud), files(&here.persist_path())), (20, 1, 2));
    let open = get(&edge, "run/7").await.unwrap();
    assert_eq!(cloud.rename_prefix(&b, "run", &b, "old", false).await.unwrap(), (20, 60_000));
    assert!(get(&edge, "old/4").await.unwrap().bytes() == content(4, 3000), "from the persistency tier, under its new name");
    assert_eq!(cloud.delete_prefix(&b, "old").await.unwrap(), (20, 60_000));
    until("all copies to be freed", async || (count(&edge), count(&cloud), files(&here.persist_path())) == (1, 0, 0)).await;
    assert!(open.bytes() == content(7, 3000), "who has it open keeps it");
    assert_eq!(get(&edge, "runner").await.unwrap().bytes(), b"another folder");
    for site in [Some(site("edge")), Some(site("cloud")), None] {
        until("the list to be empty", async || here.catalog.garbage(site.as_ref(), None).await.unwrap().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_frees_what_has_gone_meanwhile() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    put(&edge, "a/1", b"one").await;
    put(&edge, "b", b"two").await;
    edge.stop().await;
    here.namenode.remove_prefix(&bucket("data"), "a").await.unwrap();
    let edge = here.node("edge").await;
    until("it to be freed", async || count(&edge) == 1).await;
    until("the catalog to hear of it", async || here.catalog.garbage(Some(&site("edge")), None).await.unwrap().is_empty()).await;
    assert_eq!(get(&edge, "b").await.unwrap().bytes(), b"two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_memory_ends_with_its_process_under_all_its_names() {
    let mut here = Installation::new().await;
    let quick = bucket("quick");
    here.namenode.create_bucket(&quick).await.unwrap();
    here.tuning.memory = Some(Size(4 << 20));
    here.tuning.buckets.insert(quick.clone(), BucketPolicy { mode: Mode::Ephemeral, tier: Place::Memory, ..BucketPolicy::default() });
    let (edge, cloud) = (here.node("edge").await, here.node("cloud").await);
    for name in ["alone", "shared", "named"] {
        edge.put(&quick, &key(name), content(3, 9000).into()).await.unwrap();
    }
    edge.copy_object(&quick, &key("named"), &bucket("data"), &key("alias"), false).await.unwrap();
    put(&edge, "kept", b"on the disk").await;
    cloud.open_object(&quick, &key("shared")).await.unwrap();
    edge.stop().await;
    let edge = here.node("edge").await;
    assert_eq!(edge.open_object(&quick, &key("alone")).await.unwrap_err().kind(), Kind::NotFound, "and not: unreachable");
    assert_eq!(get(&edge, "alias").await.unwrap_err().kind(), Kind::NotFound, "another name of the same");
    let left: Vec<String> = edge.list(&quick, "", None, Page::default()).await.unwrap().objects.into_iter().map(|o| o.key.into()).collect();
    assert_eq!(left, ["shared"], "another site has it");
    assert!(edge.open_object(&quick, &key("shared")).await.unwrap().bytes() == content(3, 9000));
    assert_eq!(get(&edge, "kept").await.unwrap().bytes(), b"on the disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_goes_with_the_name_and_times_and_jobs_end_it() {
    let here = Installation::new().await;
    let edge = here.node("edge").await;
    let b = bucket("data");
    let blocking = edge.blocking();
    let here_first = tokio::task::spawn_blocking(move || {
        let mut writer = blocking.create(&bucket("data"), &key("m")).unwrap();
        writer.set_metadata(b"colour=red".to_vec());
        writer.write_at(0, b"content").unwrap();
        writer.seal_here().unwrap()
    });
    here_first.await.unwrap().everywhere().await.unwrap();
    edge.rename(&b, &key("m"), &key("n")).await.unwrap();
    assert_eq!(edge.attributes(&b, &key("n")).await.unwrap().metadata, b"colour=red");
    edge.set_metadata(&b, &key("n"), b"blue".to_vec()).await.unwrap();
    assert_eq!(edge.attributes(&b, &key("n")).await.unwrap().metadata, b"blue");

    let mut writer = edge.create(&b, &key("leased")).await.unwrap();
    writer.lease_to("job-1");
    assert_eq!(writer.seal().await.unwrap_err().kind(), Kind::FailedPrecondition, "there is no such job");
    assert_eq!(count(&edge), 1, "and nothing of it is left");
    here.namenode.keep_job("job-1", 0).await.unwrap();
    // Through a peer, as the hub does it.
    let mut client = PeerClient::dial(&here.hub(), &site("edge"), &edge.address).await.unwrap();
    let stream = || futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"scratch"))]);
    let leased = Attributes { job: Some("job-1".into()), ..Attributes::default() };
    client.put_with(&b, &key("leased"), None, true, leased, stream()).await.unwrap();
    let soon = Attributes { expires_ms: base::clock::now_ms() + 1500, ..Attributes::default() };
    client.put_with(&b, &key("short"), None, false, soon, stream()).await.unwrap();
    assert!(get(&edge, "short").await.is_ok() && get(&edge, "leased").await.is_ok());
    until("its time to be over", async || get(&edge, "short").await.is_err()).await;
    assert!(get(&edge, "leased").await.is_ok(), "the job lives");
    here.namenode.drop_job("job-1").await.unwrap();
    assert_eq!(get(&edge, "leased").await.unwrap_err().kind(), Kind::NotFound, "at once, although its name was leased here");
    edge.expire_after(&b, &key("n"), Some(Duration::ZERO)).await.unwrap();
    until("all to be freed", async || count(&edge) == 0).await;
}
