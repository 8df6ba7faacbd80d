//! `build`: a Dockerfile and a context become an image, as a Docker user would see it.

mod common;

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use common::git::{git, git_server, plain_server};
use common::images::{Image, Tar};
use common::registry::{Body, Registry, Reply, Server, Stock};
use common::{Host, Output, eventually};

/// A context with these files, of which one should be a Dockerfile.
fn context(host: &Host, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = host.dir().join(name);
    std::fs::create_dir_all(&dir).expect("mkdir");
    for (file, text) in files {
        host.file(&format!("{name}/{file}"), text);
    }
    dir
}

#[track_caller]
fn build(host: &Host, dir: &std::path::Path, args: &[&str]) -> Output {
    let dir = dir.to_str().expect("UTF-8");
    host.bulkhead(&[&["build"], args, &[dir]].concat())
}

/// Builds a Dockerfile that stands alone in a context of these files.
#[track_caller]
fn made(host: &Host, dockerfile: &str, files: &[(&str, &str)]) -> Output {
    let dir = context(host, "context", files);
    std::fs::write(dir.join("Dockerfile"), dockerfile).expect("write");
    build(host, &dir, &["-t", "made"])
}

/// What a shell says in the image `made`.
#[track_caller]
fn says(host: &Host, script: &str) -> String {
    host.bulkhead(&[
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        "--network",
        "none",
        "-u",
        "0",
        "-w",
        "/",
        "made",
        "-ec",
        script,
    ])
    .ok()
    .out()
}

/// The last line of what was complained.
fn why(output: Output) -> String {
    let output = output.code(1);
    output.err().trim_end().lines().last().unwrap_or_default().to_owned()
}

/// Each step with how it ended.
fn steps(output: &Output) -> Vec<(String, String)> {
    let text = output.err();
    let mut all: Vec<(String, String)> = Vec::new();
    let mut names = std::collections::BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix('#')) {
        let (number, rest) = line.split_once(' ').expect("number");
        if rest.starts_with('[')
            || rest.starts_with("importing cache manifest from ")
            || rest == "exporting to image"
        {
            names.insert(number.to_owned(), rest.to_owned());
        } else if let Some(end) =
            ["DONE", "CACHED", "CANCELED", "ERROR"].iter().find(|end| rest.starts_with(**end))
        {
            all.push((names[number].clone(), (*end).to_owned()));
        }
    }
    all
}

/// How the steps of an instruction ended.
fn ends(output: &Output, of: &str) -> Vec<String> {
    steps(output).into_iter().filter(|(name, _)| name.contains(of)).map(|(_, end)| end).collect()
}

#[test]
fn an_image_is_built_and_built_again_from_the_cache() {
    let host = host!();
    host.busybox();
    let dir = context(
        &host,
        "c",
        &[
            ("a", "hello\n"),
            (
                "Dockerfile",
                "FROM busybox\nCOPY a /data/a\nENV X=1\nRUN echo hi $X && cat /data/a > /out\nCMD [\"cat\", \"/out\"]\n",
            ),
        ],
    );
    let first = build(&host, &dir, &["-t", "made", "-t", "other:2"]).ok();
    let text = first.err();
    for line in [
        "#1 [internal] load build definition from Dockerfile\n",
        "[internal] load metadata for docker.io/library/busybox:latest\n",
        "[1/3] FROM docker.io/library/busybox:latest\n",
        "[2/3] COPY a /data/a\n",
        "[3/3] RUN echo hi $X && cat /data/a > /out\n",
        " hi 1\n",
        "exporting to image\n",
        "naming to docker.io/library/made:latest done\n",
        "naming to docker.io/library/other:2 done\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert_eq!(first.out(), "");
    assert!(steps(&first).iter().all(|(_, end)| end == "DONE"), "{text}");
    let id = host.inspect("made", "{{.Id}}");
    assert_eq!(host.inspect("other:2", "{{.Id}}"), id);
    host.bulkhead(&["run", "--rm", "made"]).ok().prints("hello\n");

    let again = build(&host, &dir, &["-t", "made"]).ok();
    assert_eq!(ends(&again, "COPY"), ["CACHED"]);
    assert_eq!(ends(&again, "RUN"), ["CACHED"]);
    assert_eq!(host.inspect("made", "{{.Id}}"), id, "nothing has changed, so nothing is new");
    build(&host, &dir, &["-q"]).ok().prints(&format!("{id}\n"));

    // A file's time is none of its content; its mode is, and so is what it says.
    let touched = std::fs::File::options().append(true).open(dir.join("a")).expect("open");
    touched.set_modified(std::time::UNIX_EPOCH).expect("touch");
    assert_eq!(ends(&build(&host, &dir, &[]).ok(), "COPY"), ["CACHED"]);
    std::fs::set_permissions(dir.join("a"), std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let changed = build(&host, &dir, &[]).ok();
    assert_eq!(
        (ends(&changed, "COPY"), ends(&changed, "RUN")),
        (vec!["DONE".to_owned()], vec!["DONE".to_owned()])
    );

    let fresh = build(&host, &dir, &["--no-cache", "-t", "made"]).ok();
    assert_eq!(
        (ends(&fresh, "COPY"), ends(&fresh, "RUN")),
        (vec!["DONE".to_owned()], vec!["DONE".to_owned()])
    );
    assert_ne!(host.inspect("made", "{{.Id}}"), id);
    // The image that had the name still has the other.
    host.bulkhead(&["rmi", "other:2"]).ok();
    host.bulkhead(&["ps", "-aq"]).ok().prints("");

    let history =
        host.bulkhead(&["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Size}}", "made"]).ok().out();
    let lines: Vec<&str> = history.lines().take(4).collect();
    assert_eq!(
        lines,
        [
            "CMD [\"cat\" \"/out\"]|0B",
            "RUN /bin/sh -c echo hi $X && cat /data/a > /out # buildkit|6B",
            "ENV X=1|0B",
            "COPY a /data/a # buildkit|6B",
        ]
    );
    assert_eq!(host.inspect("made", "{{len .RootFS.Layers}}"), "3");
}

/// What files hashed to is remembered, and a change is noticed whatever else looks the same.
#[test]
fn a_file_that_changes_under_its_old_time_is_noticed() {
    let host = host!();
    host.busybox();
    let dir = context(&host, "c", &[("a", "one"), ("Dockerfile", "FROM busybox\nCOPY a /a\n")]);
    let remembered = || {
        let caches = std::fs::read_dir(host.root().join("build-cache")).into_iter().flatten();
        caches.filter_map(|entry| entry.expect("entry").metadata().ok()).map(|meta| meta.len()).sum::<u64>()
    };
    build(&host, &dir, &[]).ok();
    // What is fresh may change within a grain of the clock.
    assert_eq!(remembered(), 0);
    eventually("the file has aged", || {
        build(&host, &dir, &[]).ok();
        remembered() > 0
    });
    assert_eq!(ends(&build(&host, &dir, &["-t", "made"]).ok(), "COPY"), ["CACHED"]);
    let file = std::fs::File::options().write(true).open(dir.join("a")).expect("open");
    let time = file.metadata().expect("stat").modified().expect("time");
    std::fs::write(dir.join("a"), "two").expect("write");
    file.set_modified(time).expect("touch");
    assert_eq!(ends(&build(&host, &dir, &["-t", "made"]).ok(), "COPY"), ["DONE"]);
    assert_eq!(says(&host, "cat /a"), "two");
    host.bulkhead(&["builder", "prune", "-af"]).ok();
    assert_eq!(remembered(), 0);
}

/// What lies in the store is what others get: the same bytes by the same name.
#[test]
fn a_built_layer_is_what_its_archive_says() {
    let host = host!();
    host.busybox();
    let text = "FROM busybox
COPY tree /tree
RUN mkdir /d && echo x > /d/x && chown 5:6 /d/x && chmod 4750 /d/x && ln /d/x /d/y && ln -s x /d/l \\
  && mkfifo /d/p && mknod /d/null c 1 3 && : > /d/empty && mkdir -m 1777 /d/sticky \\
  && rm /etc/group && rm -rf /home && mkdir /home && echo mine > /home/mine && chmod 600 /etc/passwd \\
  && truncate -s 3145728 /d/sparse && head -c 300000 /dev/urandom > /d/random
RUN rm -rf /tree/sub && echo again >> /d/x && rm /d/random
";
    made(&host, text, &[("tree/sub/a", "a"), ("tree/b", "b")]).ok();
    let look = "find /d /home /etc /tree ! -path /etc ! -path '/etc/host*' ! -name resolv.conf -exec stat -c '%n %a %u %g %h %F %s %Y' {} + | sort;
        cat /d/y /home/mine /tree/b; ls /home /tree; test ! -e /etc/group; md5sum /d/sparse";
    let seen = says(&host, look);
    assert!(
        seen.contains("/d/y 4750 5 6 2 regular file 2 ")
            && seen.contains("/d/sparse 644 0 0 1 regular file 3145728 "),
        "{seen}"
    );
    // What was made to mount on is in no layer.
    for layer in std::fs::read_dir(host.root().join("layers")).expect("layers") {
        let diff = layer.expect("layer").path().join("diff");
        assert!(
            !diff.join("etc/hosts").exists() && !diff.join("etc/resolv.conf").exists(),
            "{}",
            diff.display()
        );
    }
    let archive = host.dir().join("made.tar");
    let path = archive.to_str().expect("UTF-8");
    host.bulkhead(&["save", "-o", path, "made"]).ok();
    let other = host!();
    other.bulkhead(&["load", "-i", path]).ok();
    assert_eq!(
        other.inspect("made", "{{.Id}} {{.RootFS.Layers}}"),
        host.inspect("made", "{{.Id}} {{.RootFS.Layers}}")
    );
    assert_eq!(other.inspect("made", "{{.Size}}"), host.inspect("made", "{{.Size}}"));
    assert_eq!(says(&other, look), seen);
}

#[test]
fn a_rebuilt_tag_leaves_its_image_dangling() {
    let host = host!();
    host.busybox();
    made(&host, "FROM busybox\nLABEL v=1\n", &[]).ok();
    let old = host.inspect("made", "{{.Id}}");
    made(&host, "FROM busybox\nLABEL v=2\n", &[]).ok();
    host.bulkhead(&["images", "-q", "--no-trunc", "-f", "dangling=true"]).ok().prints(&format!("{old}\n"));
}

#[test]
fn every_instruction_does_what_it_says() {
    let host = host!();
    host.busybox();
    let dockerfile = r#"# syntax=docker/dockerfile:1
ARG BASE=nothing
FROM ${BASE}:latest
MAINTAINER Ann
LABEL a="v1" b="x \
y" c=z
ENV A="John Doe" B=Rex\ The\ Dog C=fluffy
ENV D the  rest
ARG ONE=1.24 TWO=nginx-${ONE}.gz
ARG THREE=nginx-${ONE}.gz
WORKDIR /a
WORKDIR b
WORKDIR $C
RUN pwd > /pwd
RUN cd /tmp
RUN pwd >> /pwd; echo "$TWO $THREE $A" > /args
RUN <<EOT sh
  set -ex
  mkdir -p foo/bar
EOT
RUN <<ONE cat > file1 && <<TWO cat > file2
I am
first
ONE
I am
second
TWO
COPY <<-"EOT" /app/script.sh
	echo hello ${FOO}
EOT
COPY <<EOT /expanded
$C "quoted" \$C
EOT
RUN FOO=abc ash /app/script.sh > /said
RUN <<EOT
#!/bin/ash
echo by $0 > /by
EOT
SHELL ["/bin/ash", "-euc"]
RUN echo $0 > /shell
EXPOSE 443 80/tcp 53/udp
VOLUME /one /two
VOLUME ["/three", "/four"]
USER app
RUN id -u > /tmp/id
WORKDIR /home/app/mine
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5m --timeout=3s --retries=2 CMD true || exit 1
CMD first
ENTRYPOINT ["top", "-b"]
CMD ["-d"]
"#;
    let dir = context(&host, "c", &[("Dockerfile", dockerfile)]);
    build(&host, &dir, &["-t", "made", "--build-arg", "BASE=busybox", "--label", "from=cli"]).ok();
    assert_eq!(
        says(
            &host,
            "cat /pwd /args; ls -d /a/b/fluffy/*; cat /a/b/fluffy/file*; cat /expanded /said /by /shell /tmp/id; stat -c %U /home/app/mine"
        ),
        "/a/b/fluffy\n/a/b/fluffy\nnginx-.gz nginx-1.24.gz John Doe\n/a/b/fluffy/file1\n/a/b/fluffy/file2\n/a/b/fluffy/foo\n\
         I am\nfirst\nI am\nsecond\nfluffy \"quoted\" $C\nhello abc\nby /dev/pipes/EOT\n/bin/ash\n1000\napp\n"
    );
    assert_eq!(
        host.inspect("made", "{{json .Config.Labels}}"),
        r#"{"a":"v1","b":"x y","c":"z","from":"cli"}"#
    );
    assert_eq!(
        host.inspect("made", "{{json .Config.Env}}"),
        r#"["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=John Doe","B=Rex The Dog","C=fluffy","D=the  rest"]"#
    );
    assert_eq!(
        host.inspect("made", "{{json .Config.ExposedPorts}} {{json .Config.Volumes}}"),
        r#"{"443/tcp":{},"53/udp":{},"80/tcp":{}} {"/four":{},"/one":{},"/three":{},"/two":{}}"#
    );
    assert_eq!(
        host.inspect("made", "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{.Author}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Shell}}"),
        r#"app /home/app/mine SIGQUIT Ann ["-d"] ["top","-b"] ["/bin/ash","-euc"]"#
    );
    assert_eq!(
        host.inspect("made", "{{json .Config.Healthcheck}}"),
        r#"{"Test":["CMD-SHELL","true || exit 1"],"Interval":300000000000,"Timeout":3000000000,"Retries":2,"StartPeriod":0}"#
    );
    let history = host.bulkhead(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "made"]).ok().out();
    for line in [
        "ENTRYPOINT [\"top\" \"-b\"]",
        "HEALTHCHECK &{[\"CMD-SHELL\" \"true || exit 1\"] \"5m0s\" \"3s\" \"0s\" \"0s\" '\\x02'}",
        "EXPOSE [443/tcp 53/udp 80/tcp]",
        "SHELL [/bin/ash -euc]",
        "RUN |3 ONE=1.24 TWO=nginx-.gz THREE=nginx-1.24.gz /bin/sh -c cd /tmp # buildkit",
        "ARG ONE=1.24 TWO=nginx-.gz",
        "WORKDIR /a/b/fluffy",
        "STOPSIGNAL SIGQUIT",
        "USER app",
    ] {
        assert!(history.lines().any(|have| have == line), "{line} is not in {history}");
    }
    // Arguments are the build's alone, and are seen by whoever looks.
    assert!(!host.inspect("made", "{{json .Config.Env}}").contains("ONE"));
}

#[test]
fn copy_follows_dockers_rules() {
    let host = host!();
    host.busybox();
    let files = [
        ("php8/php.ini", "1"),
        ("php8/php-fpm.d/www.conf", "2"),
        ("php8/conf.d/.keep", ""),
        ("home.txt", "home"),
        ("hom2.txt", "hom2"),
        ("deep/er/file", "deep"),
    ];
    let dir = context(&host, "context", &files);
    std::fs::remove_file(dir.join("php8/conf.d/.keep")).expect("unlink");
    symlink("home.txt", dir.join("good")).expect("symlink");
    symlink("../home.txt", dir.join("php8/link")).expect("symlink");
    made(
        &host,
        "FROM busybox
COPY php8/ /tree/
COPY php8/* /flat/
COPY --chown=app:staff --chmod=0751 php8 /owned/top
COPY --chown=app home.txt /named
COPY [\"home.txt\", \"/renamed\"]
COPY hom* /two/
COPY good /followed
COPY home.txt /etc
COPY home.txt /etc/passwd-new/
WORKDIR /place
COPY home.txt relative
COPY hom2.txt .
COPY nothing* /none/
COPY --parents deep/er/file php8/php-fpm.d /parents/
COPY --exclude=*.ini --exclude=**/www* php8 /less
COPY --link home.txt /linked
COPY --chmod=go-r,a+X php8 /symbolic
",
        &[],
    )
    .ok();
    assert_eq!(
        says(&host, "cd /tree; find . | sort; readlink link"),
        ".\n./conf.d\n./link\n./php-fpm.d\n./php-fpm.d/www.conf\n./php.ini\n../home.txt\n"
    );
    assert_eq!(says(&host, "cd /flat; find . | sort"), ".\n./link\n./php.ini\n./www.conf\n");
    assert_eq!(
        says(&host, "cd /owned; stat -c '%n %a %U %G' . top top/conf.d top/php.ini /named"),
        ". 755 app staff\ntop 755 app staff\ntop/conf.d 751 app staff\ntop/php.ini 751 app staff\n/named 644 app app\n"
    );
    assert_eq!(
        says(
            &host,
            "cat /renamed /followed /etc/home.txt /etc/passwd-new/home.txt /place/relative /place/hom2.txt /linked; ls /two /none"
        ),
        "homehomehomehomehomehom2home/none:\n\n/two:\nhom2.txt\nhome.txt\n"
    );
    assert_eq!(
        says(&host, "cd /parents; find . -type f | sort; cd /less; find . | sort"),
        "./deep/er/file\n./php8/php-fpm.d/www.conf\n.\n./conf.d\n./link\n./php-fpm.d\n"
    );
    assert_eq!(
        says(&host, "cd /symbolic; stat -c '%n %a' conf.d php.ini php-fpm.d/www.conf"),
        "conf.d 711\nphp.ini 600\nphp-fpm.d/www.conf 600\n"
    );
    // A file's time goes with it.
    let mtime = std::fs::metadata(dir.join("home.txt")).expect("stat").mtime();
    assert_eq!(says(&host, "stat -c %Y /renamed").trim(), mtime.to_string());

    for (line, want) in [
        (
            "COPY ../x /",
            "failed to compute cache key: failed to calculate checksum of ref context: \"/x\": not found",
        ),
        (
            "COPY /etc/test.txt /",
            "failed to compute cache key: failed to calculate checksum of ref context: \"/etc/test.txt\": not found",
        ),
        ("COPY php8 /etc/passwd", "cannot copy to non-directory: /etc/passwd"),
        (
            "COPY home.txt hom2.txt /x",
            "dockerfile parse error on line 2: When using COPY with more than one source file, the destination must be a directory and end with a /",
        ),
        (
            "COPY --chmod=888 home.txt /x",
            "invalid chmod parameter: '888'. it should be octal string and between 0 and 07777",
        ),
        (
            "COPY --chmod=u=rwz home.txt /x",
            "invalid chmod parameter: 'u=rwz'. it should be octal string and between 0 and 07777",
        ),
        (
            "COPY --chown=nobodyhere home.txt /x",
            "unable to find user nobodyhere: no matching entries in passwd file",
        ),
    ] {
        let refused = why(made(&host, &format!("FROM busybox\n{line}\n"), &[]));
        assert_eq!(refused, format!("ERROR: failed to build: failed to solve: {want}"));
    }
}

#[test]
fn add_unpacks_and_fetches() {
    let host = host!();
    host.busybox();
    let tar = Tar::new().dir("d", 0o750).file("d/in", 0o640, "inside").symlink("d/l", "in").build();
    let zipped = common::images::Compression::Gzip.apply(&tar);
    let server = Server::start(|request| {
        if request.target.starts_with("/file.txt") {
            Reply::ok("fetched").with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        } else {
            Reply::status(404)
        }
    });
    let dir = context(&host, "context", &[("plain", "plain")]);
    std::fs::write(dir.join("a.tar"), &tar).expect("write");
    std::fs::write(dir.join("a.tgz"), &zipped).expect("write");
    std::fs::write(dir.join("a.tar.xz"), b"\xfd7zXZ\0 and so on").expect("write");
    let url = format!("http://{}/file.txt", server.address);
    let digest = common::images::digest(b"fetched");
    made(
        &host,
        &format!(
            "FROM busybox\nADD a.tar /tar\nADD a.tgz plain /tgz/\nCOPY a.tgz /kept\nADD {url} /got\nADD --checksum={digest} {url}?again /dir/\n"
        ),
        &[],
    )
    .ok();
    assert_eq!(
        says(
            &host,
            "cat /tar/d/l /tgz/d/in /tgz/plain /got /dir/file.txt; stat -c '%a' /tar/d /tar/d/in; stat -c '%a %Y' /got; head -c 2 /kept | od -tx1 -An"
        ),
        "insideinsideplainfetchedfetched750\n640\n600 784111777\n 1f 8b\n"
    );
    let wrong =
        why(made(&host, &format!("FROM busybox\nADD --checksum=sha256:{} {url} /x\n", "0".repeat(64)), &[]));
    assert!(wrong.ends_with(&format!("digest mismatch {digest}: sha256:{}", "0".repeat(64))), "{wrong}");
    let absent = why(made(&host, &format!("FROM busybox\nADD http://{}/absent /x\n", server.address), &[]));
    assert!(absent.contains("404"), "{absent}");
    // What only looks like an archive is a file.
    made(&host, "FROM busybox\nADD a.tar.xz /x\n", &[]).ok();
    assert_eq!(says(&host, "wc -c < /x"), "16\n");
    for (program, name) in [("bzip2", "b.tar.bz2"), ("xz", "b.tar.xz")] {
        if !common::have(program) {
            continue;
        }
        std::fs::write(dir.join("b.tar"), &tar).expect("write");
        let line = format!("{program} -c b.tar > {name}");
        let packed = std::process::Command::new("sh").args(["-c", &line]).current_dir(&dir).status();
        assert!(packed.expect("sh").success());
        // Two ends in one file, as parallel compressors leave them, are one tar.
        let text = format!("FROM busybox\nADD {name} /in\nCOPY {name} /kept\n");
        made(&host, &text, &[]).ok();
        assert_eq!(says(&host, "cat /in/d/l; stat -c %a /in/d /in/d/in; test -f /kept"), "inside750\n640\n");
    }
}

/// What is not here is asked for at its registry, once; with `--pull` each time.
#[test]
fn a_base_is_brought_from_its_registry() {
    let host = host!();
    let image = Image::busybox().name("x:latest").layer(Tar::new().file("what", 0o644, "one").build());
    let stock = Stock::of("base", &image, common::images::Compression::Gzip);
    let server = Server::start(move |request| stock.answer(request));
    let base = server.name("base:latest");
    let text = format!(
        "FROM {base} AS one\nRUN cat /what > /copy\nFROM scratch\nCOPY --from={base} / /\nCOPY --from=one /copy /\n"
    );
    let manifests =
        || server.requests().iter().filter(|request| request.target.contains("/manifests/latest")).count();
    let first = made(&host, &text, &[]).ok();
    assert!(first.err().contains(&format!("[internal] load metadata for {base}\n")), "{}", first.err());
    assert_eq!(says(&host, "cat /what /copy"), "oneone");
    let asked = manifests();
    assert!(asked > 0);
    made(&host, &text, &[]).ok();
    assert_eq!(manifests(), asked, "it is here");
    build(&host, &host.dir().join("context"), &["--pull"]).ok();
    assert!(manifests() > asked);
    let absent = why(made(&host, &format!("FROM {}\n", server.name("nothing:1")), &[]));
    assert!(absent.contains("nothing:1: failed to resolve source metadata for "), "{absent}");
}

#[test]
fn a_repository_is_a_context() {
    let host = host!();
    if !common::have("git") {
        skip!("git");
    }
    host.busybox();
    let root = host.dir().join("repositories");
    let work = context(
        &host,
        "work",
        &[
            ("Dockerfile", "FROM busybox\nCOPY . /c\n"),
            (".dockerignore", "ignored\n"),
            ("ignored", "x"),
            ("a", "first\n"),
            ("sub/Dockerfile", "FROM busybox\nCOPY a /sub\n"),
            ("sub/Other", "FROM busybox\nCOPY a /other\n"),
            ("sub/a", "below\n"),
        ],
    );
    symlink("/etc", work.join("etc")).expect("symlink");
    symlink("/sub", work.join("within")).expect("symlink");
    git(&work, &["init", "-q", "-b", "main"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(&work, &["tag", "v1"]);
    let first = git(&work, &["rev-parse", "HEAD"]).trim().to_owned();
    host.file("work/a", "second\n");
    git(&work, &["commit", "-q", "-a", "-m", "two"]);
    git(&work, &["branch", "feature/x"]);
    std::fs::create_dir(&root).expect("mkdir");
    git(&host.dir(), &["clone", "-q", "--bare", "work", "repositories/r.git"]);
    git(&root.join("r.git"), &["update-server-info"]);
    let (smart, plain) = (git_server(root.clone()), plain_server(root));
    let from = |server: &Server, rest: &str| format!("http://{}{rest}", server.name("r.git"));
    let built = |server: &Server, rest: &str, more: &[&str]| {
        host.bulkhead(&[&["build", "-t", "made"], more, &[&from(server, rest)]].concat())
    };

    for server in [&smart, &plain] {
        let output = built(server, "", &[]).ok();
        assert!(
            output.err().starts_with(&format!("#1 [internal] load git source {}\n", from(server, ""))),
            "{}",
            output.err()
        );
        assert_eq!(
            says(&host, "cat /c/a; ls -A /c; stat -c %a:%u /c/a"),
            "second\n.dockerignore\nDockerfile\na\netc\nsub\nwithin\n644:0\n"
        );
        for (reference, wanted) in
            [("v1", "first"), ("feature/x", "second"), (&first, "first"), (&first[..10], "first")]
        {
            built(server, &format!("#{reference}"), &[]).ok();
            assert_eq!(says(&host, "cat /c/a"), format!("{wanted}\n"), "{reference}");
        }
    }
    built(&smart, "#:sub", &[]).ok();
    assert_eq!(says(&host, "cat /sub"), "below\n");
    built(&smart, "#v1:within", &["-f", "Other"]).ok();
    assert_eq!(says(&host, "cat /other"), "below\n");
    host.bulkhead_with_stdin(
        &["build", "-t", "made", "-f", "-", &from(&smart, "")],
        b"FROM busybox\nCOPY a /stdin\n",
    )
    .ok();
    assert_eq!(says(&host, "cat /stdin"), "second\n");

    let asked = smart.requests().len();
    for (rest, wanted) in [
        ("#--upload-pack=touch /x", "invalid refspec '--upload-pack=touch /x'"),
        ("#refs/heads/*", "invalid refspec 'refs/heads/*'"),
        ("#+main", "invalid refspec '+main'"),
    ] {
        let said = why(built(&smart, rest, &[]));
        let whole = format!(
            "ERROR: unable to prepare context: unable to 'git clone' to temporary context directory: {wanted}"
        );
        assert_eq!(said, whole);
    }
    assert_eq!(smart.requests().len(), asked, "nobody was asked");
    for (rest, wanted) in [
        ("#nowhere", "error fetching: fatal: couldn't find remote ref nowhere: exit status 128"),
        ("#:nowhere", "error setting git context, \"nowhere\" not within git root"),
        ("#:etc", "error setting git context, \"etc\" not within git root"),
        ("#:a", "error setting git context, not a directory: a"),
    ] {
        let said = why(built(&smart, rest, &[]));
        assert!(said.ends_with(wanted), "{said}");
    }

    // What a user has set up for repositories of his own runs for none of somebody else's.
    let never = host.dir().join("never");
    let hook = host.file("template/hooks/post-checkout", format!("#!/bin/sh\ntouch {}\n", never.display()));
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let template = host.dir().join("template");
    let settings = format!("[core]\n\thooksPath = {}\n", template.join("hooks").display());
    let home = context(&host, "home", &[(".gitconfig", &settings)]);
    let mut command = host.command(&["build", "-t", "made", &from(&smart, "")]);
    command.env("GIT_TEMPLATE_DIR", &template).env("HOME", &home);
    common::run(command, b"").ok();
    assert!(!never.exists());
    let mut alone = std::process::Command::new("git");
    let copy = host.dir().join("copy");
    alone
        .args(["clone", "-q", &from(&smart, "")])
        .arg(copy)
        .env("GIT_TEMPLATE_DIR", &template)
        .env("HOME", &home);
    common::run(alone, b"").ok();
    assert!(never.exists(), "that is how it would have run");
}

/// What a repository names is fetched by the protocols that a build may speak, and by no other.
#[test]
fn a_repository_leads_to_no_program_and_no_directory() {
    let host = host!();
    if !common::have("git") {
        skip!("git");
    }
    host.busybox();
    let (root, never) = (host.dir().join("repositories"), host.dir().join("never"));
    std::fs::create_dir(&root).expect("mkdir");
    let secret = context(&host, "secret", &[("key", "secret")]);
    git(&secret, &["init", "-q"]);
    git(&secret, &["add", "."]);
    git(&secret, &["commit", "-q", "-m", "x"]);
    let commit = git(&secret, &["rev-parse", "HEAD"]).trim().to_owned();
    for (n, url) in [
        secret.display().to_string(),
        format!("file://{}", secret.display()),
        format!("ext::touch {}", never.display()),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("w{n}");
        let modules = format!("[submodule \"m\"]\n\tpath = m\n\turl = {url}\n");
        let work =
            context(&host, &name, &[("Dockerfile", "FROM busybox\nCOPY . /c\n"), (".gitmodules", &modules)]);
        git(&work, &["init", "-q"]);
        git(&work, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},m")]);
        git(&work, &["add", "."]);
        git(&work, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},m")]);
        git(&work, &["commit", "-q", "-m", "x"]);
        git(&host.dir(), &["clone", "-q", "--bare", &name, &format!("repositories/{name}.git")]);
    }
    let server = git_server(root);
    for n in 0..3 {
        let said = why(host.bulkhead(&[
            "build",
            "-t",
            "made",
            &format!("http://{}", server.name(&format!("w{n}.git"))),
        ]));
        assert!(said.contains("error initializing submodules: ") && said.contains("not allowed"), "{said}");
    }
    assert!(!never.exists());
    // A server that sends elsewhere.
    let to = format!("file://{}", secret.display());
    let elsewhere = Server::start(move |request| {
        let rest = request.target.trim_start_matches("/r.git");
        Reply::status(302).with("Location", format!("{to}{rest}"))
    });
    let said = why(host.bulkhead(&["build", &format!("http://{}", elsewhere.name("r.git"))]));
    assert!(said.contains("error fetching: "), "{said}");
    // And what Docker does not take for a repository is none here.
    for path in [format!("file://{}", secret.display()), format!("ext::touch {}", never.display())] {
        let said = why(host.bulkhead(&["build", &path]));
        assert!(said.ends_with("not found"), "{said}");
    }
    assert!(!never.exists());
}

/// Killed while a server keeps it waiting, a build leaves neither git nor what it has fetched.
#[test]
fn a_fetch_ends_with_its_build() {
    let host = host!();
    if !common::have("git") {
        skip!("git");
    }
    let server = Server::start(|_| Reply::ok("").body(Body::Stall(vec![b'0'; 100], 10)));
    let mut child = host
        .command(&["build", &format!("http://{}", server.name("r.git"))])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let fetching = || -> Vec<String> {
        let root = host.root();
        std::fs::read_dir("/proc")
            .expect("proc")
            .flatten()
            .filter(|entry| {
                std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&root))
            })
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect()
    };
    eventually("a server is asked", || !server.requests().is_empty());
    assert!(fetching().iter().any(|name| name == "git"), "{:?}", fetching());
    child.kill().expect("kill");
    child.wait().expect("wait");
    eventually("git is gone", || !fetching().iter().any(|name| name == "git"));
    drop(server);
    eventually("and what it has started", || fetching().is_empty());
    eventually("and what it has fetched", || {
        host.bulkhead(&["ps", "-aq"]).ok();
        host.leftovers().is_empty()
    });
}

/// One machine builds and pushes, another one builds from what it has pushed.
#[test]
fn a_build_goes_on_from_an_image_of_another_machine() {
    let (one, other) = (host!(), host!());
    if !Registry::available() {
        skip!("docker-registry");
    }
    let registry = Registry::start(&one);
    let cache = registry.name("app:cache");
    let text = "FROM busybox\nWORKDIR /w\nRUN echo $RANDOM$RANDOM > r\nCOPY a .\nRUN cat a r > b\nCMD [\"cat\", \"/w/b\"]\n";
    let files = [("a", "hello\n"), ("Dockerfile", text)];
    let flag = format!("--cache-from={cache}");
    let from = format!("--cache-from=type=registry,ref={cache}");
    for host in [&one, &other] {
        host.busybox();
        context(host, "c", &files);
    }
    let (here, there) = (one.dir().join("c"), other.dir().join("c"));
    let all = |output: &Output| [ends(output, "RUN"), ends(output, "COPY"), ends(output, "WORKDIR")].concat();

    // Nothing is there yet, which is no reason not to build.
    let first = build(&one, &here, &["-t", &cache, "--cache-to=type=inline", &from]).ok();
    assert!(first.err().contains(&format!("importing cache manifest from {cache}\n")), "{}", first.err());
    assert!(ends(&first, "RUN").iter().all(|end| end == "DONE"), "{}", first.err());
    one.bulkhead(&["push", &cache]).ok();
    let id = one.inspect(&cache, "{{.Id}}");

    let arg = "--build-arg=BUILDKIT_INLINE_CACHE=1";
    let second = build(&other, &there, &["-t", "made", &from, arg]).ok();
    assert_eq!(all(&second), ["CACHED"; 4], "{}", second.err());
    assert!(!second.err().contains("were not consumed"), "{}", second.err());
    assert_eq!(other.inspect("made", "{{.Id}}"), id, "the same steps, the same keys, the same image");
    assert_eq!(says(&other, "cat /w/b"), one.bulkhead(&["run", "--rm", &cache]).ok().out());

    // What the image said is believed by who names it, and by nobody else.
    let alone = build(&other, &there, &["-t", "alone"]).ok();
    assert!(ends(&alone, "RUN").iter().all(|end| end == "DONE"), "{}", alone.err());
    // What has changed is made, and what follows it.
    other.file("c/a", "changed\n");
    other.bulkhead(&["builder", "prune", "-af"]).ok();
    let changed = build(&other, &there, &["-t", "made", &flag]).ok();
    assert_eq!(
        (ends(&changed, "COPY"), ends(&changed, "RUN")),
        (vec!["DONE".into()], vec!["CACHED".into(), "DONE".into()])
    );
    let fresh = build(&other, &there, &["--no-cache", &flag]).ok();
    assert!(!fresh.err().contains("importing"), "{}", fresh.err());
    assert!(ends(&fresh, "RUN").iter().all(|end| end == "DONE"), "{}", fresh.err());
}

/// What Docker's classic builder did: an image without keys, whose history is all that is known.
#[test]
fn a_history_is_a_cache_of_commands() {
    let host = host!();
    host.busybox();
    let dir = context(
        &host,
        "c",
        &[("a", "a"), ("Dockerfile", "FROM busybox\nENV X=1\nRUN echo $RANDOM > /r\nCOPY a /a\n")],
    );
    build(&host, &dir, &["-t", "old"]).ok();
    host.bulkhead(&["builder", "prune", "-af"]).ok();
    let again = build(&host, &dir, &["-t", "new", "--cache-from", "old"]).ok();
    assert!(
        again.err().contains("no inline cache: RUN and WORKDIR are known by their history"),
        "{}",
        again.err()
    );
    assert_eq!((ends(&again, "RUN"), ends(&again, "COPY")), (vec!["CACHED".into()], vec!["DONE".into()]));
    // Another environment before it is another step, and so is one that is shown something.
    for changed in
        ["ENV X=2\nRUN echo $RANDOM > /r", "ENV X=1\nRUN --mount=type=tmpfs,target=/t echo $RANDOM > /r"]
    {
        host.bulkhead(&["builder", "prune", "-af"]).ok();
        host.file("c/Dockerfile", format!("FROM busybox\n{changed}\n"));
        let other = build(&host, &dir, &["--cache-from", "old"]).ok();
        assert_eq!(ends(&other, "RUN"), ["DONE"], "{changed}");
    }
    for (flag, wanted) in [
        ("--cache-from=type=gha", "ERROR: unknown cache importer: gha\n"),
        ("--cache-to=type=local,dest=x", "ERROR: unknown cache exporter: \"local\"\n"),
    ] {
        assert_eq!(build(&host, &dir, &[flag]).code(1).err(), wanted);
    }
}

#[test]
fn stages_that_are_named_are_made_anew() {
    let host = host!();
    host.busybox();
    let text = "FROM busybox AS One\nRUN echo one > /one\nFROM busybox AS two\nRUN echo two > /two\nFROM one\nCOPY --from=two /two /\nRUN echo three > /three\n";
    let dir = context(&host, "c", &[("Dockerfile", text)]);
    build(&host, &dir, &[]).ok();
    let some = build(&host, &dir, &["--no-cache-filter", "ONE,stage-2"]).ok();
    let end = |what: &str| ends(&some, what).concat();
    assert_eq!([end("RUN echo one"), end("RUN echo two"), end("RUN echo three")], ["DONE", "CACHED", "DONE"]);
    build(&host, &dir, &["--no-cache", "--no-cache-filter", "one"])
        .code(1)
        .complains("ERROR: --no-cache and --no-cache-filter cannot currently be used together");
}

/// What scripts say that were written for buildx.
#[test]
fn the_words_of_buildx_are_understood() {
    let host = host!();
    host.busybox();
    let dir = context(&host, "c", &[("Dockerfile", "FROM busybox\nRUN echo one > /one\n")]);
    let flags = ["buildx", "build", "--builder", "default", "--load", "--provenance=false", "--sbom=false"];
    host.bulkhead(&[&flags[..], &["-t", "made", dir.to_str().expect("UTF-8")]].concat()).ok();
    assert_eq!(says(&host, "cat /one"), "one\n");
    let out = host.bulkhead(&["buildx", "du"]).ok().out();
    assert!(out.contains("[2/2] RUN echo one > /one\n") && out.contains("Total:"), "{out}");
    host.bulkhead(&["buildx", "du", "--format", "{{.Reclaimable}} {{.Size}}"]).ok().prints("false 4B\n");
    assert!(host.bulkhead(&["buildx", "ls"]).ok().out().contains("default*"));
    assert!(host.bulkhead(&["buildx", "version"]).ok().out().starts_with("bulkhead version "));
    let refused = |flag: &str| host.bulkhead(&["buildx", "b", flag, "."]).code(125);
    refused("--provenance=mode=max").complains("attestations are not made");
    refused("--builder=other").complains("invalid argument");
}

#[test]
fn what_was_made_is_told_in_files() {
    let host = host!();
    host.busybox();
    let dir = context(&host, "c", &[("Dockerfile", "FROM busybox\nLABEL a=b\n")]);
    let (id, all) = (host.dir().join("id"), host.dir().join("all"));
    let (id_flag, all_flag) =
        (format!("--iidfile={}", id.display()), format!("--metadata-file={}", all.display()));
    build(&host, &dir, &["-t", "made", "-t", "other:2", &id_flag, &all_flag]).ok();
    let made = host.inspect("made", "{{.Id}}");
    assert_eq!(std::fs::read_to_string(&id).expect("read"), made);
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&all).expect("read")).expect("JSON");
    assert_eq!(told["containerimage.config.digest"], made.as_str());
    assert_eq!(told["image.name"], "docker.io/library/made:latest,docker.io/library/other:2");
    // A build that fails says nothing, and leaves what was said before.
    host.file("c/Dockerfile", "FROM busybox\nRUN false\n");
    build(&host, &dir, &[&id_flag, &all_flag]).code(1);
    assert_eq!(std::fs::read_to_string(&id).expect("read"), made);
}

#[test]
fn an_image_without_a_new_layer_has_its_own_time() {
    let host = host!();
    host.busybox();
    let base = host.inspect("busybox", "{{.Created}}");
    let dir = context(&host, "c", &[("Dockerfile", "FROM busybox\nLABEL a=b\n")]);
    build(&host, &dir, &["-t", "made"]).ok();
    let (id, time) = (host.inspect("made", "{{.Id}}"), host.inspect("made", "{{.Created}}"));
    assert_ne!(time, base);
    build(&host, &dir, &["-t", "made"]).ok();
    assert_eq!(host.inspect("made", "{{.Id}}"), id, "made before, it is the same");
    build(&host, &dir, &["-t", "made", "--no-cache"]).ok();
    assert_ne!(host.inspect("made", "{{.Created}}"), time);
    build(&host, &dir, &["-t", "made", "--label", "c=d"]).ok();
    assert_ne!(host.inspect("made", "{{.Created}}"), time);
    // And one that changes nothing at all is as old as what it is.
    host.file("c/Dockerfile", "FROM busybox\n");
    build(&host, &dir, &["-t", "made"]).ok();
    assert_eq!(host.inspect("made", "{{.Created}}"), base);
}

#[test]
fn stages_are_built_when_they_are_needed() {
    let host = host!();
    host.busybox();
    let dockerfile = "ARG TAG=latest
FROM busybox:$TAG AS builder
ARG TAG
RUN echo made > /made; echo $TAG > /tag; chown 5:6 /made
FROM busybox AS unused
RUN false
FROM builder AS more
RUN echo more > /more
FROM scratch
COPY --from=builder /made /tag /x/
COPY --from=more /more /y
COPY --from=0 /made /z
COPY --from=busybox /bin/busybox /bin/sh
ENTRYPOINT [\"/bin/sh\"]
";
    let dir = context(&host, "c", &[("Dockerfile", dockerfile)]);
    let first = build(&host, &dir, &["-t", "made"]).ok();
    let names: Vec<String> = steps(&first).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().any(|name| name.starts_with("[builder 2/2] RUN echo made")), "{names:?}");
    assert!(names.iter().any(|name| name == "[stage-3 1/4] COPY --from=builder /made /tag /x/"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("unused")), "{names:?}");
    host.bulkhead(&[
        "run",
        "--rm",
        "made",
        "-c",
        "read a < /x/made; read b < /y; read c < /z; read d < /x/tag; echo $a $b $c $d",
    ])
    .ok()
    .prints("made more made latest\n");
    let again = build(&host, &dir, &["-t", "made"]).ok();
    assert_eq!(ends(&again, "COPY"), ["CACHED"; 4]);

    build(&host, &dir, &["-t", "made", "--target", "MORE"]).ok();
    assert_eq!(says(&host, "cat /more; stat -c %u:%g /made"), "more\n5:6\n");
    assert_eq!(
        why(build(&host, &dir, &["--target", "nobody"])),
        "ERROR: failed to build: failed to solve: target stage \"nobody\" could not be found"
    );
    for (text, want) in [
        ("FROM busybox AS a\nCOPY --from=a /x /\n", "circular dependency detected on stage: a"),
        ("FROM busybox\nCOPY --from=9 /x /\n", "invalid stage index 9"),
        ("FROM busybox AS a\nFROM busybox AS a\n", "duplicate name a"),
        ("ARG X\nFROM $X\n", "base name ($X) should not be blank"),
    ] {
        assert_eq!(why(made(&host, text, &[])), format!("ERROR: failed to build: failed to solve: {want}"));
    }
    // Others first, however deep; too deep is told.
    let mut deep = "FROM busybox AS s0\n".to_owned();
    for n in 1..4000 {
        writeln!(deep, "FROM s{} AS s{n}", n - 1).expect("text");
    }
    assert!(why(made(&host, &deep, &[])).ends_with("stages are nested too deeply"));
}

#[test]
fn triggers_wait_for_the_next_build() {
    let host = host!();
    host.busybox();
    let files = [("file", "from the child")];
    let first =
        made(&host, "FROM busybox\nONBUILD RUN echo ran > /ran\nONBUILD COPY file /file\n", &files).ok();
    assert!(ends(&first, "RUN").is_empty());
    host.bulkhead(&["tag", "made", "parent"]).ok();
    let child = made(&host, "FROM parent\nRUN cat /ran /file > /both\n", &files).ok();
    assert_eq!(ends(&child, "] RUN").len(), 2);
    assert_eq!(says(&host, "cat /both"), "ran\nfrom the child");
    // They are the parent's, and the child's children know nothing of them.
    let grandchild = made(&host, "FROM made\nRUN true\n", &files).ok();
    assert_eq!(ends(&grandchild, "] RUN").len(), 1);
}

#[test]
fn a_failing_step_is_shown_with_its_lines() {
    let host = host!();
    host.busybox();
    let output = made(&host, "FROM busybox\nRUN echo said; echo complained >&2; exit 7\n", &[]).code(1);
    let text = output.err();
    let name = "[2/2] RUN echo said; echo complained >&2; exit 7";
    let error = "process \"/bin/sh -c echo said; echo complained >&2; exit 7\" did not complete successfully: exit code: 7";
    assert!(text.contains(&format!("ERROR: {error}\n------\n > {name}:\n")), "{text}");
    assert!(text.contains(" said\n") && text.contains(" complained\n"), "{text}");
    assert!(
        text.contains(
            "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUN echo said;"
        ),
        "{text}"
    );
    assert!(text.ends_with(&format!("ERROR: failed to build: failed to solve: {error}\n")), "{text}");
    let missing = why(made(&host, "FROM busybox\nRUN [\"/absent\"]\n", &[]));
    assert!(missing.contains("process \"/absent\" did not complete successfully"), "{missing}");
    // What was done before it is not done again.
    made(&host, "FROM busybox\nRUN echo one > /one\nRUN false\n", &[]).code(1);
    assert_eq!(
        ends(&made(&host, "FROM busybox\nRUN echo one > /one\nRUN true\n", &[]).ok(), "RUN echo"),
        ["CACHED"]
    );
}

#[test]
fn what_is_wrong_is_told_in_dockers_words() {
    let host = host!();
    host.busybox();
    for (text, want) in [
        (
            "FROM busybox\n\nRUNN x\n",
            "dockerfile parse error on line 3: unknown instruction: RUNN (did you mean RUN?)",
        ),
        ("", "file with no instructions"),
        ("RUN x\n", "dockerfile parse error on line 1: no build stage in current context"),
        (
            "FROM busybox\nONBUILD ONBUILD RUN x\n",
            "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FROM busybox\nENV x=${y\n", "failed to process \"${y\": syntax error: missing '}'"),
        (
            "FROM Upper\n",
            "failed to parse stage name \"Upper\": invalid reference format: repository name (Upper) must be lowercase",
        ),
        ("FROM busybox\nEXPOSE nowhere\n", "invalid containerPort: nowhere"),
        ("FROM busybox\nSTOPSIGNAL NOTHING\n", "invalid signal: NOTHING"),
        (
            "FROM --platform=linux/s390x busybox\n",
            "docker.io/library/busybox:latest: no match for platform in manifest: wanted linux/s390x, actual: linux/amd64",
        ),
    ] {
        let got = why(made(&host, text, &[]));
        let want = want.replace("linux/amd64", &host.inspect("busybox", "{{.Os}}/{{.Architecture}}"));
        assert_eq!(got, format!("ERROR: failed to build: failed to solve: {want}"), "{text:?}");
    }
    let dir = context(&host, "empty", &[]);
    assert_eq!(
        why(build(&host, &dir, &[])),
        "ERROR: failed to build: failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory"
    );
    assert_eq!(
        why(build(&host, &host.dir().join("absent"), &[])),
        format!(
            "ERROR: unable to prepare context: path {:?} not found",
            host.dir().join("absent").display().to_string()
        )
    );
    host.bulkhead(&["build"]).code(1).complains("bulkhead: 'bulkhead build' requires 1 argument\n");
    assert!(why(build(&host, &dir, &["-t", "Upper"])).contains("must be lowercase"));
    // A file of nothing but names must not take the engine's memory or its stack.
    let huge = format!("FROM busybox\n{}", "LABEL x=y\n".repeat(300_000));
    assert!(why(made(&host, &huge, &[])).contains("is larger than"));
}

#[test]
fn a_context_may_come_from_standard_input() {
    let host = host!();
    host.busybox();
    let tar = Tar::new()
        .file("Dockerfile", 0o644, "FROM busybox\nCOPY . /all\n")
        .file("sub/Other", 0o644, "FROM busybox\nCOPY a /one\n")
        .file(".dockerignore", 0o644, "b\n")
        .file("a", 0o644, "A")
        .file("b", 0o644, "B")
        .build();
    host.bulkhead_with_stdin(&["build", "-t", "made", "-"], &tar).ok();
    assert_eq!(
        says(&host, "cd /all; find . -type f | sort"),
        "./.dockerignore\n./Dockerfile\n./a\n./sub/Other\n"
    );
    for compression in [common::images::Compression::Gzip, common::images::Compression::Zstd] {
        host.bulkhead_with_stdin(&["build", "-t", "made", "-f", "sub/Other", "-"], &compression.apply(&tar))
            .ok();
        assert_eq!(says(&host, "cat /one"), "A");
    }
    let text = b"FROM busybox\nRUN echo alone > /alone\n";
    host.bulkhead_with_stdin(&["build", "-t", "made", "-"], text).ok();
    assert_eq!(says(&host, "cat /alone"), "alone\n");
    let dir = context(&host, "c", &[("f", "of the context")]);
    let dir = dir.to_str().expect("UTF-8");
    host.bulkhead_with_stdin(&["build", "-t", "made", "-f", "-", dir], b"FROM busybox\nCOPY f /\n").ok();
    assert_eq!(says(&host, "cat /f"), "of the context");
    let both = host.bulkhead_with_stdin(&["build", "-f", "-", "-"], text);
    assert!(why(both).contains("can't use stdin for both build context and dockerfile"));
    let iid = host.dir().join("iid");
    host.bulkhead_with_stdin(&["build", "--iidfile", iid.to_str().expect("UTF-8"), "-t", "made", "-"], text)
        .ok();
    assert_eq!(std::fs::read_to_string(iid).expect("iidfile"), host.inspect("made", "{{.Id}}"));
}

#[test]
fn what_is_ignored_is_not_copied() {
    let host = host!();
    host.busybox();
    let files = [
        ("a/1.md", ""),
        ("a/b/2.md", ""),
        ("a/b/3.txt", ""),
        ("README.md", ""),
        ("node_modules/x/y", ""),
        ("z.log", ""),
        (".dockerignore", "# comment\n**/*.md\n!README.md\nnode_modules\n*.log\n.dockerignore\n"),
        ("Other", "FROM busybox\nCOPY . /all\n"),
        ("Other.dockerignore", "*\n!a/b/3.txt\n"),
    ];
    made(
        &host,
        "FROM busybox\nCOPY . /all\nRUN --mount=type=bind,target=/m find /m | sort > /seen\n",
        &files,
    )
    .ok();
    let list = "find . -type f | sort";
    assert_eq!(
        says(&host, &format!("cd /all; {list}")),
        "./Dockerfile\n./Other\n./Other.dockerignore\n./README.md\n./a/b/3.txt\n"
    );
    assert_eq!(says(&host, "grep -c md /seen"), "1\n");
    let dir = host.dir().join("context");
    build(&host, &dir, &["-t", "made", "-f", dir.join("Other").to_str().expect("UTF-8")]).ok();
    assert_eq!(says(&host, "cd /all; find . | sort"), ".\n./a\n./a/b\n./a/b/3.txt\n");
    let refused = why(made(&host, "FROM busybox\nCOPY z.log /\n", &[]));
    assert!(refused.ends_with("\"/z.log\": not found"), "{refused}");
}

#[test]
fn a_step_sees_its_mounts_and_leaves_no_trace_of_them() {
    let host = host!();
    host.busybox();
    host.file("secret", "s3cret\n");
    let secret = format!("id=s,src={}", host.dir().join("secret").display());
    let dockerfile = "FROM busybox AS base
RUN mkdir /dir && echo from-base > /dir/f && ln -s /dir /inside && ln -s ../../../../../../../../../../etc /outside
FROM busybox
RUN --mount=type=cache,target=/cache echo + >> /cache/n && cp /cache/n /count
RUN --mount=type=bind,target=/ctx cat /ctx/file > /bound; ! touch /ctx/no
RUN --mount=type=bind,source=file,target=/deep/er/f,rw echo changed >> /deep/er/f
RUN --mount=type=bind,from=base,source=/inside,target=/mnt/d cat /mnt/d/f > /viewed
RUN --mount=type=bind,from=base,source=/outside,target=/mnt/e cat /mnt/e/passwd > /users
RUN --mount=type=tmpfs,target=/t,size=1048576 df -k /t | tail -1 > /size; echo x > /t/x
RUN --mount=type=secret,id=s cat /run/secrets/s > /told; stat -c %a /run/secrets/s >> /told
RUN --mount=type=secret,id=absent ls /run > /none 2>&1 || true
RUN --network=none ls /sys/class/net > /net
RUN ls -d /ctx /cache /deep /mnt /t /run 2>&1 | grep -v 'No such' > /left || true
";
    let dir = context(&host, "c", &[("file", "bound\n"), ("Dockerfile", dockerfile)]);
    build(&host, &dir, &["-t", "made", "--secret", &secret]).ok();
    assert_eq!(
        says(
            &host,
            "cat /count /bound /viewed /told /net /left; grep -c app /users; tr -s ' ' < /size | cut -d' ' -f2"
        ),
        "+\nbound\nfrom-base\ns3cret\n400\nlo\n1\n1024\n"
    );
    assert_eq!(
        std::fs::read_to_string(dir.join("file")).expect("file"),
        "bound\n",
        "what a step writes is its own"
    );
    // What a cache holds is not in the image, and there for the next build.
    build(&host, &dir, &["-t", "made", "--secret", &secret, "--no-cache"]).ok();
    assert_eq!(
        says(&host, "cat /count; ls /cache 2>&1 || true"),
        "+\n+\nls: /cache: No such file or directory\n"
    );
    let missing = why(made(&host, "FROM busybox\nRUN --mount=type=secret,id=x,required=true true\n", &[]));
    assert!(missing.ends_with("secret x: not found"), "{missing}");
    host.bulkhead(&["builder", "prune", "-af"]).ok();
    build(&host, &dir, &["-t", "made", "--secret", &secret, "--no-cache"]).ok();
    assert_eq!(says(&host, "cat /count"), "+\n");
}

#[test]
fn nothing_hostile_leads_outside() {
    let host = host!();
    host.busybox();
    let outside = host.dir().join("outside");
    std::fs::create_dir_all(&outside).expect("mkdir");
    std::fs::write(outside.join("secret"), "not for images").expect("write");
    let out = outside.to_str().expect("UTF-8");
    let dir = context(&host, "context", &[("file", "mine"), ("tree/x", "x")]);
    symlink(outside.join("secret"), dir.join("direct")).expect("symlink");
    symlink(&outside, dir.join("through")).expect("symlink");
    symlink("/", dir.join("root")).expect("symlink");
    for source in ["direct", "through/secret", "root/etc/hostname", "../outside/secret"] {
        let refused = why(made(&host, &format!("FROM busybox\nCOPY {source} /stolen\n"), &[]));
        assert!(refused.ends_with(": not found"), "{source}: {refused}");
    }
    // The context's own root.
    made(&host, "FROM busybox\nCOPY root/file /r\n", &[]).ok();
    assert_eq!(says(&host, "cat /r"), "mine");
    // A link is copied as it is.
    made(&host, "FROM busybox\nCOPY . /all\n", &[]).ok();
    assert_eq!(says(&host, "readlink /all/direct").trim(), format!("{out}/secret"));

    // Links that an earlier step planted where something is copied to.
    let planted = format!(
        "FROM busybox
RUN ln -s {out} /a && ln -s ../../../../../../../../../..{out} /b && mkdir /c && ln -s {out} /c/x && ln -s /etc/passwd /d
COPY file /a/
COPY file /b/sub/
COPY file /d
COPY tree /a/more
ADD a.tar /a
WORKDIR /a/made
"
    );
    std::fs::write(dir.join("a.tar"), Tar::new().file("unpacked", 0o644, "u").build()).expect("write");
    made(&host, &planted, &[]).ok();
    assert_eq!(
        says(
            &host,
            &format!("cd {out}; find . -type f | sort; test -d made; cat /d; grep -c root: /etc/passwd")
        ),
        "./file\n./more/x\n./sub/file\n./unpacked\nmine1\n"
    );
    // In a copied tree a link in the way of a directory is refused, not followed.
    let refused = why(made(
        &host,
        &format!("FROM busybox\nRUN mkdir /t && ln -s {out} /t/sub\nCOPY top /t\n"),
        &[("top/sub/f", "f")],
    ));
    assert!(refused.ends_with("cannot copy to non-directory: /t/sub"), "{refused}");

    // Archives that want to be elsewhere.
    let up = Tar::new().file("../../escaped", 0o644, "evil").build();
    let through = Tar::new().symlink("l", out).file("l/escaped", 0o644, "evil").build();
    for (name, tar) in [("up.tar", up), ("through.tar", through)] {
        std::fs::write(dir.join(name), &tar).expect("write");
        made(&host, &format!("FROM busybox\nADD {name} /x/\n"), &[]).code(1);
        let mut archive = Tar::new().file("Dockerfile", 0o644, "FROM scratch\n").build();
        archive.truncate(archive.len() - 1024);
        archive.extend(&tar);
        host.bulkhead_with_stdin(&["build", "-"], &archive).code(1);
    }
    let names: Vec<_> = std::fs::read_dir(&outside)
        .expect("readdir")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    assert!(!host.dir().join("escaped").exists());
}

#[test]
fn limits_hold_for_each_step() {
    let host = host!();
    host.busybox();
    let dir = context(
        &host,
        "c",
        &[("Dockerfile", "FROM busybox\nRUN head -c 200m /dev/zero | tail > /dev/null\n")],
    );
    let killed = why(build(&host, &dir, &["-m", "32m"]));
    assert!(killed.contains("did not complete successfully: exit code:"), "{killed}");
    let text = "FROM busybox\nRUN ulimit -n > /n; grep extra /etc/hosts | cut -f1 > /h; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 > /shm; hostname > /host\n";
    let dir = context(&host, "d", &[("Dockerfile", text)]);
    build(
        &host,
        &dir,
        &["-t", "made", "--ulimit", "nofile=333", "--add-host", "extra:10.9.8.7", "--shm-size", "8m"],
    )
    .ok();
    assert_eq!(says(&host, "cat /n /h /shm /host"), "333\n10.9.8.7\n8192\nbuildkitsandbox\n");
}

#[test]
fn arguments_reach_the_steps_that_ask() {
    let host = host!();
    host.busybox();
    let text =
        "FROM busybox\nARG A\nARG B=default\nENV B=env\nRUN echo \"$A $B $HTTP_PROXY ${C:-none}\" > /args\n";
    let dir = context(&host, "c", &[("Dockerfile", text)]);
    let output = build(
        &host,
        &dir,
        &[
            "-t",
            "made",
            "--build-arg",
            "A=1",
            "--build-arg",
            "B=2",
            "--build-arg",
            "C=3",
            "--build-arg",
            "HTTP_PROXY=p",
        ],
    )
    .ok();
    assert!(
        output.err().contains("[Warning] One or more build-args [C] were not consumed\n"),
        "{}",
        output.err()
    );
    assert_eq!(says(&host, "cat /args"), "1 env p none\n");
    assert_eq!(
        ends(&build(&host, &dir, &["--build-arg", "A=1"]).ok(), "RUN"),
        ["CACHED"],
        "a proxy changes nothing"
    );
    assert_eq!(ends(&build(&host, &dir, &["--build-arg", "A=other"]).ok(), "RUN"), ["DONE"]);
    assert!(!host.bulkhead(&["history", "--no-trunc", "made"]).ok().out().contains("HTTP_PROXY="));
}

/// Killed at any moment, a build leaves nothing that the next command does not take away.
#[test]
fn a_killed_build_leaves_nothing() {
    let host = host!();
    host.busybox();
    let text = "FROM busybox\nCOPY tree /tree\nRUN --mount=type=bind,from=busybox,target=/b echo started > /s; sleep 0.2\nWORKDIR /w\nRUN sleep 0.1\n";
    let dir = context(&host, "c", &[("tree/a", "a"), ("tree/b/c", "c"), ("Dockerfile", text)]);
    let dir = dir.to_str().expect("UTF-8");
    for delay in [5, 20, 40, 80, 120, 160, 200, 250, 300, 350, 400, 500] {
        let mut child = host
            .command(&["build", "--no-cache", "-t", "made", dir])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let _ = child.kill();
        child.wait().expect("wait");
        eventually("nothing is left", || {
            host.bulkhead(&["ps", "-aq"]).ok().prints("");
            host.leftovers().iter().all(|left| left.contains("caretaker"))
        });
    }
    host.bulkhead(&["build", "-t", "made", dir]).ok();
    assert_eq!(says(&host, "cat /s"), "started\n");
}

/// With the process that holds a step killed as well, the step itself goes with the next command.
#[test]
fn a_step_without_anybody_is_ended_by_the_next_command() {
    let host = host!();
    host.busybox();
    let dir =
        context(&host, "c", &[("Dockerfile", "FROM busybox\nRUN echo here > /dev/stderr; sleep 1000\n")]);
    let mut child = host
        .command(&["build", dir.to_str().expect("UTF-8")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let of = |what: &str| -> Vec<i32> {
        host.processes().into_iter().filter(|(_, line)| line.contains(what)).map(|(pid, _)| pid).collect()
    };
    eventually("the step runs", || !of("sleep 1000").is_empty());
    for pid in of("build-step") {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("kill");
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    // One sweep is all that follows, and what a dying process holds it leaves alone.
    eventually("their owners are gone", || of("build-step").is_empty());
    assert!(!of("sleep 1000").is_empty(), "nobody was there to end it");
    host.bulkhead(&["ps", "-aq"]).ok().prints("");
    eventually("it is gone", || of("sleep 1000").is_empty());
    // And one that even the run root has forgotten.
    let forgotten = host.root().join("containers").join("f".repeat(64));
    std::fs::create_dir_all(forgotten.join("upper/x")).expect("mkdir");
    host.bulkhead_with_stdin(&["build", "-"], b"FROM busybox\n").ok();
    assert!(!forgotten.exists());
}

#[test]
fn builds_run_side_by_side() {
    let host = host!();
    host.busybox();
    let dir = context(
        &host,
        "c",
        &[("Dockerfile", "FROM busybox\nRUN echo $RANDOM > /r\nRUN sleep 0.2\nCOPY Dockerfile /\n")],
    );
    let dir = dir.to_str().expect("UTF-8");
    let children: Vec<_> = (0..3)
        .map(|n| {
            let tag = format!("made:{n}");
            host.command(&["build", "--no-cache", "-q", "-t", &tag, dir])
                .stdout(Stdio::piped())
                .spawn()
                .expect("spawn")
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success(), "{output:?}");
    }
    host.bulkhead(&["images", "-q", "made"]).ok();
    for n in 0..3 {
        host.bulkhead(&["run", "--rm", "--network", "none", &format!("made:{n}"), "test", "-s", "/r"]).ok();
    }
}

#[test]
fn the_cache_is_shown_and_pruned() {
    let host = host!();
    host.busybox();
    let text = "FROM busybox AS builder\nRUN head -c 100000 /dev/zero > /big\nFROM busybox\nCOPY --from=builder /bin/sh /small\n";
    made(&host, text, &[]).ok();
    let layers = || std::fs::read_dir(host.root().join("layers")).expect("layers").count();
    assert_eq!(layers(), 3);
    let df =
        || host.bulkhead(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"]).ok().out();
    assert!(df().contains("Build Cache 2 100kB"), "{}", df());
    // What is in an image stays in the cache, and in the image.
    let pruned = host.bulkhead(&["builder", "prune", "-f"]).ok().out();
    assert!(
        pruned.starts_with("Deleted build cache objects:\nsha256:")
            && pruned.ends_with("Total reclaimed space: 100kB\n"),
        "{pruned}"
    );
    assert_eq!(layers(), 2);
    assert_eq!(ends(&made(&host, text, &[]).ok(), "RUN"), ["DONE"]);
    // An image that is removed leaves its layers to the cache, and a prune takes them.
    host.bulkhead(&["rmi", "made"]).ok();
    assert_eq!(ends(&made(&host, text, &[]).ok(), "COPY"), ["CACHED"]);
    host.bulkhead(&["rmi", "made"]).ok();
    host.bulkhead(&["system", "prune", "-f"]).ok();
    assert_eq!(layers(), 1);
}

#[test]
fn what_is_built_goes_where_it_is_sent() {
    let host = host!();
    host.busybox();
    let dockerfile = "FROM busybox AS make\nRUN mkdir -p /o/d && echo made > /o/d/f && ln -s /etc /o/out && chmod 711 /o/d\n\
                      FROM scratch\nCOPY --from=make /o /\n";
    let dir = context(&host, "context", &[("Dockerfile", dockerfile)]);
    let at = |name: &str| host.dir().join(name).display().to_string();
    let ids = || host.bulkhead(&["images", "-aq", "--no-trunc"]).ok().out();
    let before = ids();

    // Files alone leave no image behind, and take nobody's name.
    let told = build(&host, &dir, &["-t", "busybox", "-o", &at("local")]).ok();
    assert!(told.err().contains("exporting to client directory"), "{}", told.err());
    assert_eq!(std::fs::read_to_string(host.dir().join("local/d/f")).expect("made"), "made\n");
    let mode = std::fs::metadata(host.dir().join("local/d")).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7777, 0o711);
    assert_eq!(ids(), before);
    // Into what is there already; a link on the way leads nowhere else.
    let trap = host.dir().join("trap");
    std::fs::create_dir_all(&trap).expect("mkdir");
    std::fs::write(trap.join("stays"), "").expect("write");
    symlink(host.dir().join("elsewhere"), trap.join("d")).expect("symlink");
    std::fs::create_dir(host.dir().join("elsewhere")).expect("mkdir");
    let trapped = build(&host, &dir, &["--output", &format!("type=local,dest={}", at("trap"))]).code(1);
    assert!(trapped.err().contains("cannot copy to non-directory"), "{}", trapped.err());
    assert!(!host.dir().join("elsewhere/f").exists() && trap.join("stays").exists());
    std::fs::remove_file(trap.join("d")).expect("unlink");
    build(&host, &dir, &["--output", &format!("type=local,dest={}", at("trap"))]).ok();
    assert!(trap.join("stays").exists() && trap.join("d/f").exists());
    assert_eq!(std::fs::read_link(trap.join("out")).expect("a link").to_str(), Some("/etc"));

    let tar = build(&host, &dir, &["-q", "-o", "-"]).ok();
    let names = |bytes: &[u8]| {
        let mut tar = std::process::Command::new("tar");
        tar.arg("t");
        let listed = common::run(tar, bytes).ok().out();
        let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(&tar.stdout), "d/ d/f out");
    build(&host, &dir, &["-o", &format!("type=tar,dest={}", at("files.tar"))]).ok();
    assert_eq!(names(&std::fs::read(at("files.tar")).expect("a tar")), "d/ d/f out");
    assert_eq!(ids(), before);

    // An archive is of an image, and keeps its name.
    build(&host, &dir, &["-t", "kept:1", "-o", &format!("type=oci,dest={}", at("image.tar"))]).ok();
    host.bulkhead(&["rmi", "kept:1"]).ok();
    let loaded = host.bulkhead(&["load", "-i", &at("image.tar")]).ok().out();
    assert_eq!(loaded, "Loaded image: kept:1\n");

    // What fails leaves what was there.
    std::fs::write(host.dir().join("file"), "mine").expect("write");
    for (output, why) in [
        (at("file"), format!("ERROR: destination directory {:?} is a file", at("file"))),
        (
            format!("type=tar,dest={}", at("local")),
            format!("ERROR: destination file {:?} is a directory", at("local")),
        ),
        ("type=nonsense".to_owned(), "ERROR: exporter \"nonsense\" could not be found".to_owned()),
    ] {
        let told = build(&host, &dir, &["-o", &output]).code(1);
        assert_eq!(told.err().trim_end(), why);
    }
    let failing = context(&host, "failing", &[("Dockerfile", "FROM busybox\nRUN false\n")]);
    build(&host, &failing, &["-o", &format!("type=tar,dest={}", at("file"))]).code(1);
    assert_eq!(std::fs::read_to_string(host.dir().join("file")).expect("still there"), "mine");
    build(&host, &dir, &["--push"]).code(1).complains("ERROR: tag is needed when pushing to registry");
}

#[test]
fn what_is_built_is_pushed_under_all_its_names() {
    let host = host!();
    let registry = registry!(host);
    host.busybox();
    let dir = context(&host, "context", &[("Dockerfile", "FROM busybox\nRUN echo built > /f\n")]);
    let (one, two, three) = (registry.name("a:1"), registry.name("b/c:2"), registry.name("d:3"));
    let told = build(&host, &dir, &["-t", &one, "-t", &two, "--push"]).ok();
    assert!(told.err().contains(&format!("pushing manifest for {one}@sha256:")), "{}", told.err());
    let output = format!("type=image,name={three},push=true");
    build(&host, &dir, &["-o", &output]).ok();
    for name in [&one, &two, &three] {
        host.bulkhead(&["rmi", name]).ok();
        let args = ["run", "--rm", "--network", "none", "--pull", "always", "-q", name, "cat", "/f"];
        assert_eq!(host.bulkhead(&args).ok().out(), "built\n", "{name}");
    }
    // The image stays when nobody takes it.
    let nobody = "localhost:1/x:1";
    let told = build(&host, &dir, &["-t", nobody, "--push"]).code(1);
    assert!(told.err().contains("failed to solve: failed to push localhost:1/x:1: "), "{}", told.err());
    host.bulkhead(&["image", "inspect", nobody]).ok();
}

/// Three stages, each of which ends only when all have begun: one after the other they would wait forever.
#[test]
fn stages_are_built_at_the_same_time() {
    let host = host!();
    host.busybox();
    let meet = |own: &str| {
        format!(
            "RUN --mount=type=cache,id=meeting,target=/m touch /m/{own}; n=0; \
             until [ -e /m/a -a -e /m/b -a -e /m/c ]; do n=$((n+1)); [ $n -lt 1200 ] || exit 9; sleep 0.1; done; \
             echo {own} met; echo {own} > /{own}"
        )
    };
    let text = format!(
        "FROM busybox AS one\n{}\nFROM busybox AS two\n{}\nFROM busybox AS unused\nRUN false\n\
         FROM busybox\n{}\nCOPY --from=one /a /\nCOPY --from=two /b /\n",
        meet("a"),
        meet("b"),
        meet("c")
    );
    let output = made(&host, &text, &[]).ok();
    assert_eq!(says(&host, "cat /a /b /c"), "a\nb\nc\n");
    // Each line says whose it is.
    let said = output.err();
    for (stage, own) in [("one", "a"), ("two", "b"), ("stage-3", "c")] {
        let name = format!(" [{stage} ");
        let begins = said.lines().find(|line| line.contains(&name) && line.contains(" RUN ")).expect(stage);
        let number = begins.split_once(' ').expect("number").0;
        let line = said.lines().find(|line| line.ends_with(&format!(" {own} met"))).expect(own);
        assert!(line.starts_with(&format!("{number} ")), "{line}: {said}");
    }
    let steps = steps(&output);
    assert!(!steps.iter().any(|(name, _)| name.contains("unused")), "{steps:?}");
    assert_eq!(ends(&made(&host, &text, &[]).ok(), "RUN"), ["CACHED"; 3]);
}

#[test]
fn a_stage_that_fails_ends_the_others() {
    let host = host!();
    host.busybox();
    let text = "FROM busybox AS slow\nRUN --mount=type=cache,id=m,target=/c touch /c/up; echo $$ > /pid; sleep 4321\n\
                RUN echo never\n\
                FROM busybox AS bad\nRUN --mount=type=cache,id=m,target=/c until [ -e /c/up ]; do sleep 0.1; done; exit 3\n\
                FROM busybox\nCOPY --from=slow /pid /\nCOPY --from=bad /pid /\n";
    let output = made(&host, text, &[]);
    let steps = steps(&output);
    assert_eq!(ends(&output, "touch /c/up"), ["CANCELED"], "{steps:?}");
    assert!(!steps.iter().any(|(name, _)| name.contains("never")), "{steps:?}");
    let said = why(output);
    assert!(said.contains("exit code: 3") && said.contains("until [ -e /c/up ]"), "{said}");
    assert!(
        host.processes().into_iter().all(|(_, line)| !line.contains("sleep 4321")),
        "it was killed before the end"
    );
    host.bulkhead(&["images", "-q", "made"]).ok().prints("");
    let left = |dir: &str| std::fs::read_dir(host.root().join(dir)).expect("readdir").count();
    assert_eq!((left("containers"), left("tmp")), (0, 0));
}

/// What two stages begin with is done once, and who is second finds it in the cache.
#[test]
fn a_step_that_two_stages_share_is_done_once() {
    let host = host!();
    host.busybox();
    let shared = "RUN --mount=type=cache,id=count,target=/c echo x >> /c/n; sleep 0.5; cp /c/n /n";
    let text = format!(
        "FROM busybox AS a\n{shared}\nRUN echo a > /a\nFROM busybox AS b\n{shared}\nRUN echo b > /b\n\
         FROM busybox\nCOPY --from=a /a /n /\nCOPY --from=b /b /m/\n"
    );
    let output = made(&host, &text, &[]).ok();
    let mut ended = ends(&output, "echo x >>");
    ended.sort();
    assert_eq!((ended[0].as_str(), ended.len()), ("CACHED", 2), "{ended:?}");
    assert_eq!(says(&host, "cat /n /a /m/b"), "x\na\nb\n");
}

#[test]
fn caches_are_shared_as_they_are_asked_for() {
    let host = host!();
    host.busybox();
    // Both are inside of their private caches at the same time, and see nobody.
    let private = |own: &str, other: &str| {
        format!(
            "FROM busybox AS {own}\nRUN --mount=type=cache,id=p,target=/p,sharing=private \
             --mount=type=cache,id=s,target=/s touch /p/{own} /s/{own}; n=0; \
             until [ -e /s/{other} ]; do n=$((n+1)); [ $n -lt 1200 ] || exit 9; sleep 0.1; done; ls /p > /{own}\n"
        )
    };
    // A directory can be made once: two that are inside at the same time see each other. Named in both orders, they
    // do not wait for each other for ever.
    let locked = |own: &str, first: &str, second: &str| {
        format!(
            "FROM busybox AS {own}\nRUN --mount=type=cache,id={first},target=/{first},sharing=locked \
             --mount=type=cache,id={second},target=/{second},sharing=locked \
             mkdir /x/d && sleep 0.5 && rmdir /x/d && echo {own} > /{own}\n"
        )
    };
    let text = format!(
        "{}{}{}{}FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\nCOPY --from=three /three /\nCOPY --from=four /four /\n",
        private("one", "two"),
        private("two", "one"),
        locked("three", "x", "y"),
        locked("four", "y", "x")
    );
    made(&host, &text, &[]).ok();
    assert_eq!(says(&host, "cat /one /two /three /four"), "one\ntwo\nthree\nfour\n");
}

/// Killed while several stages run, a build leaves nothing that the next command does not take back.
#[test]
fn a_killed_build_of_several_stages_leaves_nothing() {
    let host = host!();
    host.busybox();
    let stage = |own: &str| format!("FROM busybox AS {own}\nRUN echo {own} > /{own}; sleep 5432\n");
    let text = format!("{}{}FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n", stage("a"), stage("b"));
    let dir = context(&host, "c", &[("Dockerfile", &text)]);
    let running = || {
        host.processes()
            .iter()
            .filter(|(_, line)| line.contains("sleep 5432") && !line.contains("build"))
            .count()
    };
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGINT] {
        let mut child = host
            .command(&["build", dir.to_str().expect("UTF-8")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        eventually("both run", || running() >= 2);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).expect("kill");
        child.wait().expect("wait");
        eventually("both are gone", || running() == 0);
        eventually("nothing is left", || {
            host.bulkhead(&["ps", "-aq"]).ok().prints("");
            host.leftovers().iter().all(|left| left.contains("caretaker"))
        });
    }
}

/// A tar or a Dockerfile at an address, of which nothing leads outside and nothing is longer than it may be.
#[test]
fn a_context_is_fetched_from_an_address() {
    let host = host!();
    host.busybox();
    let tar = Tar::new()
        .file("Dockerfile", 0o644, "FROM busybox\nCOPY . /c\n")
        .file("Other", 0o644, "FROM busybox\nCOPY a /other\n")
        .file(".dockerignore", 0o644, "ignored\n")
        .file("ignored", 0o644, "x")
        .file("a", 0o640, "fetched\n")
        .symlink("etc", "/etc")
        .build();
    let packed = common::images::Compression::Gzip.apply(&tar);
    let mut regular = tar::Header::new_gnu();
    regular.set_size(1);
    regular.set_mode(0o644);
    let outside =
        Tar::new().file("Dockerfile", 0o644, "FROM busybox\n").entry(regular, "../outside", b"x").build();
    let leading = Tar::new()
        .file("Dockerfile", 0o644, "FROM busybox\nCOPY etc/passwd /stolen\n")
        .symlink("etc", "/etc")
        .build();
    let large =
        Tar::new().file("Dockerfile", 0o644, "FROM busybox\n").file("zeros", 0o644, vec![0; 4 << 20]).build();
    let bomb = common::images::Compression::Gzip.apply(&large);
    let server = Server::start(move |request| match request.target.as_str() {
        "/c.tar.gz" => Reply::ok(packed.clone()),
        "/c.tar" => Reply::ok(tar.clone()),
        "/text" => Reply::ok(b"FROM busybox\nRUN echo alone > /alone\n"),
        "/copies" => Reply::ok(b"FROM busybox\nCOPY a /a\n"),
        "/outside.tar" => Reply::ok(outside.clone()),
        "/leading.tar" => Reply::ok(leading.clone()),
        "/large.tar" => Reply::ok(large.clone()),
        "/bomb.tar.gz" => Reply::ok(bomb.clone()),
        _ => Reply::status(404),
    });
    let at = |name: &str| format!("http://{}/{name}", server.address);
    let built =
        |name: &str, more: &[&str]| host.bulkhead(&[&["build", "-t", "made"], more, &[&at(name)]].concat());
    for name in ["c.tar.gz", "c.tar"] {
        let output = built(name, &[]).ok();
        let first = format!("#1 [internal] load remote build context {}\n", at(name));
        assert!(output.err().starts_with(&first), "{}", output.err());
        assert_eq!(
            says(&host, "cat /c/a; ls -A /c; stat -c %a:%u /c/a"),
            "fetched\n.dockerignore\nDockerfile\nOther\na\netc\n640:0\n"
        );
        built(name, &["-f", "Other"]).ok();
        assert_eq!(says(&host, "cat /other"), "fetched\n");
    }
    built("text", &[]).ok();
    assert_eq!(says(&host, "cat /alone"), "alone\n");
    for (name, wanted) in [
        ("copies", "\"/a\": not found"),
        ("leading.tar", "\"/etc/passwd\": not found"),
        ("nowhere.tar", "404 Not Found"),
        ("outside.tar", "\"../outside\" is refused: it leads out of the destination"),
    ] {
        let said = why(built(name, &[]));
        assert!(said.contains(wanted), "{name}: {said}");
    }
    let said = why(built("nowhere.tar", &[]));
    let start = format!(
        "ERROR: unable to prepare context: unable to download remote context {}: ",
        at("nowhere.tar")
    );
    assert!(said.starts_with(&start), "{said}");
    // As long as it may be, whether it comes so or grows so.
    for name in ["large.tar", "bomb.tar.gz"] {
        let mut command = host.command(&["build", &at(name)]);
        command.env("BULKHEAD_UNPACK_LIMIT", (2 << 20).to_string());
        let said = why(common::run(command, b""));
        assert!(said.contains("2097152 bytes"), "{name}: {said}");
        built(name, &[]).ok();
    }
    // ADD is held to the same.
    let text = format!("FROM busybox\nADD {} /x\n", at("large.tar"));
    let dir = context(&host, "adds", &[("Dockerfile", &text)]);
    let mut command = host.command(&["build", dir.to_str().expect("UTF-8")]);
    command.env("BULKHEAD_UNPACK_LIMIT", (2 << 20).to_string());
    assert!(why(common::run(command, b"")).contains("larger than 2097152 bytes"));
    let left = std::fs::read_dir(host.root().join("tmp")).expect("readdir").count();
    assert_eq!(left, 0);
}

#[test]
fn add_takes_a_repository() {
    let host = host!();
    if !common::have("git") {
        skip!("git");
    }
    host.busybox();
    let root = host.dir().join("repositories");
    let work = context(&host, "work", &[("a", "first\n"), ("sub/b", "below\n"), ("sub/c", "c\n")]);
    symlink("/etc/passwd", work.join("link")).expect("symlink");
    git(&work, &["init", "-q", "-b", "main"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(&work, &["tag", "v1"]);
    let first = git(&work, &["rev-parse", "HEAD"]).trim().to_owned();
    host.file("work/a", "second\n");
    git(&work, &["commit", "-q", "-a", "-m", "two"]);
    std::fs::create_dir(&root).expect("mkdir");
    git(&host.dir(), &["clone", "-q", "--bare", "work", "repositories/r.git"]);
    let server = git_server(root.clone());
    let url = format!("http://{}", server.name("r.git"));
    let secret = url.replace("http://", "http://me:secret@");

    let text = format!(
        "FROM busybox\nADD {url} /all\nADD --chown=5:6 {url}#v1 /v1/\nADD --exclude=c {url}#v1:sub /sub\n\
         ADD --keep-git-dir=true {secret}#v1 /kept\nADD --checksum={first} {url}#{first} /checked\n"
    );
    let output = made(&host, &text, &[]).ok();
    assert_eq!(ends(&output, "ADD"), ["DONE"; 5]);
    assert_eq!(
        says(
            &host,
            "cat /all/a; ls -A /all; readlink /all/link; cat /v1/a; stat -c %u:%g /v1/a /v1/sub/b; ls /sub; \
             ls -A /kept; cat /kept/.git/HEAD; cat /checked/a; grep -r secret /kept || true"
        ),
        format!(
            "second\na\nlink\nsub\n/etc/passwd\nfirst\n5:6\n5:6\nb\n.git\na\nlink\nsub\n{first}\nfirst\n"
        )
    );
    // A branch is asked for again; a commit need not be.
    let again = made(&host, &text, &[]).ok();
    assert_eq!(ends(&again, "ADD"), ["CACHED"; 5]);
    let asked = server.requests().len();
    let commit = format!("FROM busybox\nADD {url}#{first} /checked\n");
    made(&host, &commit, &[]).ok();
    let fetched = server.requests().len();
    assert!(fetched > asked);
    assert_eq!(ends(&made(&host, &commit, &[]).ok(), "ADD"), ["CACHED"]);
    assert_eq!(server.requests().len(), fetched);
    host.file("work/a", "third\n");
    git(&work, &["commit", "-q", "-a", "-m", "three"]);
    git(&work, &["push", "-q", root.join("r.git").to_str().expect("UTF-8"), "main"]);
    assert_eq!(
        ends(&made(&host, &text, &[]).ok(), "ADD"),
        ["DONE"; 5],
        "what lies upon another layer is another step"
    );
    assert_eq!(says(&host, "cat /all/a /v1/a"), "third\nfirst\n");
    for (line, wanted) in [
        (format!("ADD {url}#nothing /x"), "error fetching: "),
        (format!("ADD {url}#--upload-pack=x /x"), "invalid refspec"),
        (format!("ADD --checksum={first} {url} /x"), "digest mismatch"),
        (format!("ADD {url}#:nowhere /x"), "not within git root"),
    ] {
        let said = why(made(&host, &format!("FROM busybox\n{line}\n"), &[]));
        assert!(said.contains(wanted), "{line}: {said}");
    }
}

#[test]
fn a_cache_begins_with_what_it_is_told() {
    let host = host!();
    host.busybox();
    let text = "FROM busybox AS seed\nRUN mkdir -p /in/d; echo seeded > /in/d/f; chown 7:8 /in; echo x > /file\n\
                FROM busybox\n\
                RUN --mount=type=cache,id=k,from=seed,source=/in,target=/c cp /c/d/f /first; stat -c %u:%g /c > /own; echo more >> /c/d/f\n\
                RUN --mount=type=cache,id=k,from=seed,source=/in,target=/c cp /c/d/f /second\n\
                RUN --mount=type=cache,id=k,target=/c ls -A /c > /empty\n";
    made(&host, text, &[]).ok();
    assert_eq!(
        says(&host, "cat /first /own /second; wc -c < /empty; test ! -e /in"),
        "seeded\n7:8\nseeded\nmore\n0\n"
    );
    for (mount, wanted) in [
        ("from=seed,source=/nowhere", "not found"),
        ("from=seed,source=/file", "non-directory"),
        ("source=/in", "source needs from"),
    ] {
        let line = format!("RUN --mount=type=cache,id=new,{mount},target=/c true");
        let said = why(made(
            &host,
            &format!("FROM busybox AS seed\nRUN echo x > /file\nFROM busybox\n{line}\n"),
            &[],
        ));
        assert!(said.contains(wanted), "{mount}: {said}");
    }
}
