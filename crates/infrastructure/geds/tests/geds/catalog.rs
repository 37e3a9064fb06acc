//! One behaviour suite for the catalog, asked of the namenode itself and of the namenode over its wire.

use crate::common::{bucket, key, namenode, site};
use base::Kind;
use geds::{Caller, Catalog, Namenode, NewObject, ObjectId, ObjectMeta, Page, RemoteCatalog};

/// A client over a pipe in memory.
async fn remote(namenode: Namenode, caller: Caller) -> RemoteCatalog {
    RemoteCatalog::over(move || {
        let (namenode, caller) = (namenode.clone(), caller.clone());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move { namenode.serve(theirs, caller).await });
        async move { Ok(ours) }
    })
}

fn new(id: u128, at: &str) -> NewObject {
    NewObject { id: ObjectId(id), size: id as u64 * 10, checksum: u64::MAX - id as u64, site: site(at), if_absent: false }
}

fn sites(meta: &ObjectMeta) -> Vec<&str> {
    meta.sites.iter().map(|holder| holder.site.as_str()).collect()
}

async fn names(catalog: &dyn Catalog, prefix: &str, delimiter: Option<char>, limit: u32) -> Vec<String> {
    let (mut all, mut start_after) = (Vec::new(), String::new());
    loop {
        let page = Page { start_after, limit };
        let listing = catalog.list(&bucket("data"), prefix, delimiter, page).await.unwrap();
        assert!(listing.objects.len() + listing.prefixes.len() <= limit as usize);
        all.extend(listing.objects.iter().map(|meta| meta.key.to_string()));
        all.extend(listing.prefixes);
        match listing.next {
            Some(next) => start_after = next,
            None => break,
        }
    }
    all.sort();
    all
}

async fn suite(catalog: &dyn Catalog) {
    let (b, k) = (bucket("data"), key("a/b"));
    let kind = |e: geds::Error| e.kind();

    // Buckets.
    assert_eq!(catalog.seal(&b, &k, new(1, "edge")).await.map_err(kind).unwrap_err(), Kind::NotFound);
    assert_eq!(catalog.list(&b, "", None, Page::default()).await.map_err(kind).unwrap_err(), Kind::NotFound);
    assert!(catalog.create_bucket(&b).await.unwrap());
    assert!(!catalog.create_bucket(&b).await.unwrap());
    catalog.create_bucket(&bucket("another")).await.unwrap();
    assert_eq!(catalog.buckets().await.unwrap(), [bucket("another"), b.clone()]);

    // Seal, look up.
    let missing = catalog.lookup(&b, &k).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert!(missing.to_string().contains("data/a/b"), "{missing}");
    catalog.announce(&site("edge"), "10.0.0.1:7").await.unwrap();
    let first = catalog.seal(&b, &k, new(1, "edge")).await.unwrap();
    assert!(first.replaced.is_none());
    let first = first.object;
    assert_eq!((first.size, first.checksum, first.id), (10, u64::MAX - 1, ObjectId(1)));
    assert_eq!((first.sites[0].site.as_str(), first.sites[0].address.as_str()), ("edge", "10.0.0.1:7"));
    assert_eq!(catalog.lookup(&b, &k).await.unwrap(), first);
    assert_eq!(catalog.find(ObjectId(1)).await.unwrap().unwrap(), first);
    assert!(catalog.find(ObjectId(9)).await.unwrap().is_none());

    // The same seal again is no new epoch.
    assert_eq!(catalog.seal(&b, &k, new(1, "edge")).await.unwrap().object, first);

    // An overwrite is.
    let taken = NewObject { if_absent: true, ..new(2, "cloud") };
    assert_eq!(catalog.seal(&b, &k, taken).await.map_err(kind).unwrap_err(), Kind::AlreadyExists);
    let second = catalog.seal(&b, &k, new(2, "cloud")).await.unwrap();
    assert_eq!(second.replaced.as_ref(), Some(&first));
    let second = second.object;
    assert!(second.epoch > first.epoch);
    assert!(catalog.find(ObjectId(1)).await.unwrap().is_none());

    // Holders and the persisted copy go by epoch; the only copy stays.
    let stale = catalog.add_holder(&b, &k, first.epoch, &site("edge")).await.unwrap_err();
    assert_eq!(stale.kind(), Kind::FailedPrecondition);
    assert_eq!(catalog.drop_holder(&b, &k, second.epoch, &site("cloud")).await.map_err(kind).unwrap_err(), Kind::FailedPrecondition);
    assert_eq!(catalog.mark_persisted(&b, &k, first.epoch, "x").await.map_err(kind).unwrap_err(), Kind::FailedPrecondition);
    assert_eq!(sites(&catalog.add_holder(&b, &k, second.epoch, &site("edge")).await.unwrap()), ["cloud", "edge"]);
    assert_eq!(sites(&catalog.add_holder(&b, &k, second.epoch, &site("edge")).await.unwrap()), ["cloud", "edge"]);
    assert_eq!(sites(&catalog.drop_holder(&b, &k, second.epoch, &site("cloud")).await.unwrap()), ["edge"]);
    assert_eq!(catalog.drop_holder(&b, &k, second.epoch, &site("edge")).await.map_err(kind).unwrap_err(), Kind::FailedPrecondition);
    assert_eq!(catalog.mark_persisted(&b, &k, second.epoch, "objects/2").await.unwrap().persisted.as_deref(), Some("objects/2"));
    let spilled = catalog.drop_holder(&b, &k, second.epoch, &site("edge")).await.unwrap();
    assert_eq!((sites(&spilled), spilled.persisted.as_deref()), (vec![], Some("objects/2")));

    // A rename keeps id and epoch, and replaces.
    let other = catalog.seal(&b, &key("c"), new(3, "edge")).await.unwrap().object;
    let renamed = catalog.rename(&b, &k, &key("c")).await.unwrap();
    assert_eq!(renamed.replaced, Some(other));
    assert_eq!((renamed.object.id, renamed.object.epoch), (second.id, second.epoch));
    assert_eq!(catalog.lookup(&b, &k).await.map_err(kind).unwrap_err(), Kind::NotFound);
    assert_eq!(catalog.rename(&b, &k, &key("d")).await.map_err(kind).unwrap_err(), Kind::NotFound);
    assert_eq!(catalog.rename(&b, &key("c"), &key("c")).await.unwrap().object.id, second.id);

    // Delete; an epoch is never given twice.
    assert_eq!(catalog.delete(&b, &key("c")).await.unwrap().persisted.as_deref(), Some("objects/2"));
    assert_eq!(catalog.delete(&b, &key("c")).await.map_err(kind).unwrap_err(), Kind::NotFound);
    assert!(catalog.seal(&b, &key("c"), new(4, "edge")).await.unwrap().object.epoch > second.epoch + 1);

    // What a site holds.
    catalog.seal(&b, &key("e"), new(5, "cloud")).await.unwrap();
    let held = catalog.held(&site("edge"), None).await.unwrap();
    assert_eq!(held.iter().map(|meta| meta.id.0).collect::<Vec<_>>(), [4]);
    assert!(catalog.held(&site("edge"), Some(ObjectId(4))).await.unwrap().is_empty());
    catalog.delete(&b, &key("c")).await.unwrap();
    catalog.delete(&b, &key("e")).await.unwrap();

    // Listings.
    let keys = ["foo", "foo/1", "foo/2/x", "foo/2/y", "foo/\u{10FFFF}/z", "foo-bar", "foobar", "foobar/1", "ä/ö"];
    for (n, name) in keys.iter().enumerate() {
        catalog.seal(&b, &key(name), new(100 + n as u128, "edge")).await.unwrap();
    }
    let mut sorted = keys.map(String::from).to_vec();
    sorted.sort();
    for limit in [1, 2, 3, 1000] {
        assert_eq!(names(catalog, "", None, limit).await, sorted);
        assert_eq!(names(catalog, "foo", None, limit).await, ["foo", "foo/1", "foo/2/x", "foo/2/y", "foo/\u{10FFFF}/z"]);
        assert_eq!(names(catalog, "foo/", Some('/'), limit).await, ["foo/1", "foo/2/", "foo/\u{10FFFF}/"]);
        assert_eq!(
            names(catalog, "", Some('/'), limit).await,
            ["foo", "foo-bar", "foo/", "foobar", "foobar/", "ä/"],
            "limit {limit}"
        );
        assert!(names(catalog, "fo", None, limit).await.is_empty(), "a prefix ends at a segment");
    }
    let odd = catalog.list(&b, "../x", None, Page::default()).await;
    assert_eq!(odd.map_err(kind).unwrap_err(), Kind::InvalidArgument);
}

#[tokio::test]
async fn near() {
    let temp = tempfile::tempdir().unwrap();
    suite(&namenode(temp.path()).await).await;
}

#[tokio::test]
async fn over_the_wire() {
    let temp = tempfile::tempdir().unwrap();
    suite(&remote(namenode(temp.path()).await, Caller::Hub).await).await;
}

#[tokio::test]
async fn a_folder_of_many_objects_is_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let catalog = namenode(temp.path()).await;
    catalog.create_bucket(&bucket("data")).await.unwrap();
    for n in 0..700u128 {
        let name = format!("{}/{n:04}", if n < 600 { "big" } else { "small" });
        catalog.seal(&bucket("data"), &key(&name), new(n, "edge")).await.unwrap();
    }
    for limit in [1, 2, 10] {
        assert_eq!(names(&catalog, "", Some('/'), limit).await, ["big/", "small/"]);
        assert_eq!(names(&catalog, "big", Some('/'), limit.max(7)).await.len(), 600);
    }
    let mut held = 0;
    let mut last = None;
    while let Some(end) = {
        let page = catalog.held(&site("edge"), last).await.unwrap();
        held += page.len();
        page.last().map(|meta| meta.id)
    } {
        last = Some(end);
    }
    assert_eq!(held, 700);
}

#[tokio::test]
async fn it_is_the_same_after_a_restart_and_alone_in_its_folder() {
    let temp = tempfile::tempdir().unwrap();
    let before = {
        let catalog = namenode(temp.path()).await;
        catalog.create_bucket(&bucket("data")).await.unwrap();
        catalog.seal(&bucket("data"), &key("a"), new(1, "edge")).await.unwrap().object
    };
    let catalog = namenode(temp.path()).await;
    assert_eq!(catalog.lookup(&bucket("data"), &key("a")).await.unwrap(), before);
    // A second one is told why not; when the first is gone, it may.
    let error = Namenode::open(temp.path().join("names")).await.err().unwrap();
    assert!(error.to_string().contains("another process"), "{error}");
    catalog.close().await;
    let late = catalog.seal(&bucket("data"), &key("x"), new(2, "edge")).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Unavailable);
    assert_eq!(namenode(temp.path()).await.lookup(&bucket("data"), &key("a")).await.unwrap(), before);
}

#[tokio::test]
async fn one_of_many_wins_a_create_if_absent() {
    let temp = tempfile::tempdir().unwrap();
    let catalog = namenode(temp.path()).await;
    catalog.create_bucket(&bucket("data")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let catalog = catalog.clone();
        tasks.spawn(async move {
            let wanted = NewObject { if_absent: true, ..new(n + 1, "edge") };
            catalog.seal(&bucket("data"), &key("lock"), wanted).await.is_ok()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
}

#[tokio::test]
async fn a_site_speaks_for_itself_only() {
    let temp = tempfile::tempdir().unwrap();
    let namenode = namenode(temp.path()).await;
    let edge = remote(namenode.clone(), Caller::Site(site("edge"))).await;
    edge.create_bucket(&bucket("data")).await.unwrap();
    let sealed = edge.seal(&bucket("data"), &key("a"), new(1, "edge")).await.unwrap().object;
    let denied = [
        edge.seal(&bucket("data"), &key("b"), new(2, "cloud")).await.map(|_| ()),
        edge.announce(&site("cloud"), "6.6.6.6:6").await,
        edge.add_holder(&bucket("data"), &key("a"), sealed.epoch, &site("cloud")).await.map(|_| ()),
        edge.held(&site("cloud"), None).await.map(|_| ()),
    ];
    for answer in denied {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied);
        assert!(error.to_string().contains("cloud"), "{error}");
    }
    let nobody = remote(namenode.clone(), Caller::of(None)).await;
    assert_eq!(nobody.buckets().await.unwrap_err().kind(), Kind::Unauthenticated);
    let user = remote(namenode, Caller::of(Some("user.cloudskin"))).await;
    assert_eq!(user.buckets().await.unwrap_err().kind(), Kind::PermissionDenied);
}

#[tokio::test]
async fn a_hub_that_is_away_is_unavailable() {
    let catalog = RemoteCatalog::local("nowhere/at/all");
    assert_eq!(catalog.buckets().await.unwrap_err().kind(), Kind::Unavailable);
}
