use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("tempdir");
    let layout = Layout { root: dir.path().join("root"), run_root: dir.path().join("run") };
    (dir, Store::open(layout).expect("open"))
}

fn new(name: &str) -> NewVolume {
    NewVolume { name: name.into(), ..NewVolume::default() }
}

fn names(store: &Store) -> Vec<String> {
    list(store).expect("list").into_iter().map(|volume| volume.name).collect()
}

#[test]
fn names_follow_dockers_rule() {
    for name in ["ab", "a_", "0-.x", &"a".repeat(255)] {
        assert!(check_name(name).is_ok(), "{name}");
    }
    assert!(matches!(check_name("a"), Err(Error::ShortName(_))));
    for name in ["", "..", "-a", ".gone-x", "a/b", "a b", "ä-x", "a\0b", "_x"] {
        assert!(matches!(check_name(name), Err(Error::Name(_))), "{name}");
    }
}

#[test]
fn options_follow_dockers_rules() {
    let with = |options: &[(&str, &str)]| {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NewVolume { options, ..new("vol") }.check().map_err(|error| error.to_string())
    };
    assert_eq!(with(&[("type", "none"), ("device", "/a"), ("o", "bind")]), Ok(()));
    assert_eq!(with(&[("type", "tmpfs"), ("device", "tmpfs")]), Ok(()));
    for (options, want) in [
        (&[("foo", "x")][..], "create vol: invalid option: \"foo\""),
        (&[("type", "tmpfs")], "create vol: missing required option: \"device\""),
        (&[("device", "tmpfs")], "create vol: missing required option: \"type\""),
        (&[("o", "bind")], "create vol: missing required option: \"device\""),
        (&[("size", "1g")], "create vol: quota size requested but no quota support"),
    ] {
        assert_eq!(with(options), Err(want.to_owned()));
    }
    let driver = NewVolume { driver: "nfs".into(), ..new("vol") }.check().expect_err("driver");
    assert_eq!(
        driver.to_string(),
        "create vol: error looking up volume plugin nfs: plugin \"nfs\" not found"
    );
}

#[test]
fn a_used_volume_stays() {
    let (_dir, store) = store();
    create(&store, &new("data")).expect("create");
    add_user(&store, "data", "c1", false).expect("use");
    let error = remove(&store, "data").expect_err("in use");
    assert_eq!(error.to_string(), "remove data: volume is in use - [c1]");
    // And the database would not let it go either.
    assert!(forget(&store, "data").is_err());
    assert!(mountpoint(store.layout(), "data").is_dir());
    drop_user(&store, "data", "c1").expect("leave");
    remove(&store, "data").expect("remove");
    assert!(!store.layout().volumes().join("data").exists());
    assert_eq!(remove(&store, "data").expect_err("gone").to_string(), "get data: no such volume");
}

#[test]
fn what_is_rolled_back_leaves_no_directory() {
    let (_dir, store) = store();
    create(&store, &new("there")).expect("create");
    let mut making = Making::new(&store).expect("making");
    let tx = write(&store).expect("lock");
    making.ensure(&new("there")).expect("there");
    making.ensure(&new("new")).expect("new");
    drop(tx);
    drop(making);
    assert_eq!(names(&store), ["there"]);
    assert!(!store.layout().volumes().join("new").exists());
    assert!(mountpoint(store.layout(), "there").is_dir());
}

#[test]
fn a_sweep_settles_what_a_kill_left_and_deletes_no_data() {
    let (_dir, store) = store();
    let volumes = store.layout().volumes();
    for name in ["kept", "lost", "used"] {
        create(&store, &new(name)).expect("create");
    }
    add_user(&store, "used", "c1", false).expect("use");
    // Killed while it was made; killed while it was removed; rows lost with the power.
    make_dirs(store.layout(), "half").expect("mkdir");
    fs::create_dir_all(volumes.join(".gone-x/_data/deep")).expect("mkdir");
    for name in ["lost", "used"] {
        fs::remove_dir_all(volumes.join(name)).expect("rm");
    }
    for name in ["found", &"0a".repeat(32)] {
        make_dirs(store.layout(), name).expect("mkdir");
        fs::write(volumes.join(name).join("_data/f"), "data").expect("write");
    }
    sweep(&store).expect("sweep");
    assert_eq!(names(&store), [&"0a".repeat(32), "found", "kept", "used"]);
    assert!(find(&store, &"0a".repeat(32)).expect("adopted").is_anonymous());
    assert_eq!(fs::read_to_string(volumes.join("found/_data/f")).expect("read"), "data");
    assert!(mountpoint(store.layout(), "used").is_dir(), "what is used is there, if empty");
    let mut left: Vec<_> =
        fs::read_dir(&volumes).expect("ls").map(|entry| entry.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["0a".repeat(32).as_str(), "found", "kept", "used"]);
    // A row that a killed removal left is no volume any more.
    fs::remove_dir_all(volumes.join("kept")).expect("rm");
    let labels = [("made".to_owned(), "anew".to_owned())].into();
    let made = create(&store, &NewVolume { labels, ..new("kept") }).expect("create");
    assert_eq!(made.labels["made"], "anew");
}

#[test]
fn a_copy_that_was_cut_short_does_not_count() {
    let (_dir, store) = store();
    create(&store, &new("data")).expect("create");
    let dir = store.layout().volumes().join("data");
    fs::create_dir_all(dir.join(fill::PART).join("half")).expect("mkdir");
    assert!(fill::is_wanted(&dir).expect("look"), "still empty");
    fill::resume(&dir).expect("resume");
    assert!(!dir.join(fill::PART).exists());
    assert!(fill::is_wanted(&dir).expect("look"));
    // A whole one is moved in, past what a container has put there meanwhile.
    fs::create_dir_all(dir.join(fill::WHOLE).join("a/b")).expect("mkdir");
    fs::write(dir.join(fill::WHOLE).join("f"), "image").expect("write");
    fs::write(dir.join("_data/f"), "container").expect("write");
    fs::set_permissions(dir.join(fill::WHOLE), fs::Permissions::from_mode(0o1777)).expect("chmod");
    fill::resume(&dir).expect("resume");
    assert!(dir.join("_data/a/b").is_dir() && !dir.join(fill::WHOLE).exists());
    assert_eq!(fs::read_to_string(dir.join("_data/f")).expect("read"), "container");
    assert_eq!(fs::metadata(dir.join("_data")).expect("stat").permissions().mode() & 0o7777, 0o1777);
    assert!(!fill::is_wanted(&dir).expect("look"));
}

#[test]
fn what_a_container_puts_in_the_place_of_a_copy_is_not_followed() {
    let (held, store) = store();
    create(&store, &new("data")).expect("create");
    let dir = store.layout().volumes().join("data");
    let outside = held.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("secret"), "of the host").expect("write");
    let data = dir.join("_data");
    for name in [fill::WHOLE, fill::PART] {
        std::os::unix::fs::symlink(&outside, data.join(name)).expect("symlink");
        fill::finish(&data, &data).expect("finish");
        assert!(outside.join("secret").exists(), "{name}");
        fs::write(data.join(name), "no directory").expect("write");
        fill::finish(&data, &data).expect("finish");
        assert_eq!(fs::read_dir(&data).expect("ls").count(), 0, "{name}");
        // Of a volume that is not mounted it is the user's own.
        fs::write(data.join(name), "mine").expect("write");
        fill::resume(&dir).expect("resume");
        fs::remove_file(data.join(name)).expect("it was left alone");
    }
}
