//! Go's text/template as Docker's users write it, over JSON.
//!
//! `--format` is the interface that scripts use most, and it is Go's template language with Docker's
//! functions added. What is printed here is JSON that the engine's own types serialise to, so a template sees
//! the names that `inspect` shows. Two things JSON does not say are supplied by name ([`exec::is_map`]): which
//! objects are maps, where a missing key is `<no value>`, and which are structures, where it is an error.

#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    clippy::naive_bytecount,
    reason = "a template prints a few hundred bytes; write! would put an impossible error at each of them"
)]

mod exec;
mod funcs;
mod parse;
mod types;

use serde_json::Value;

pub use exec::Kind;

/// Why a template does not parse or cannot be executed, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not parse.
    #[error("template: :{line}: {why}")]
    Parse {
        /// The line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// It parses and fails on this data.
    #[error("template: :{line}:{column}: executing {template:?} at <{node}>: {why}")]
    Execute {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 0.
        column: usize,
        /// The defined template's name; empty at the top.
        template: String,
        /// The expression.
        node: String,
        /// Why.
        why: String,
    },
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template(parse::Tree);

impl Template {
    /// Parses.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::parse(text).map(Self)
    }

    /// Executes on `data`, appending to `out` what it prints.
    pub fn execute(&self, data: Value, kind: Kind, out: &mut String) -> Result<(), Error> {
        exec::execute(&self.0, data, kind, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data() -> Value {
        json!({
            "Id": "sha256:abc", "Name": "/web", "Size": 1_234_567_890_123_i64, "Ratio": 0.5, "Big": 1e21,
            "RepoTags": ["a:1", "b:2"],
            "State": {"Status": "running", "Running": true, "Pid": 42, "ExitCode": 0, "Health": null},
            "Config": {"Env": ["A=1", "B=2"], "Cmd": null, "Labels": {"z": "last", "com.x/y": "v", "a": "first"},
                       "Entrypoint": ["sh", "-c"]},
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": null},
                                "Networks": {"n1": {"IPAddress": "10.0.0.2"}, "n2": {"IPAddress": "10.0.0.3"}}},
            "Mounts": [], "Html": "<a href=\"x\">'&'</a>"
        })
    }

    fn run(text: &str) -> String {
        let mut out = String::new();
        match Template::parse(text).and_then(|t| t.execute(data(), Kind::Inspect, &mut out)) {
            Ok(()) => out,
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn what_docker_users_write() {
        for (text, want) in [
            ("plain", "plain"),
            ("{{.Id}}", "sha256:abc"),
            ("{{ .State.Status }}:{{.State.Pid}}", "running:42"),
            ("{{.State.Running}}", "true"),
            ("{{.Size}} {{.Ratio}} {{.Big}}", "1234567890123 0.5 1e+21"),
            ("{{.RepoTags}}", "[a:1 b:2]"),
            ("{{.Config.Labels}}", "map[a:first com.x/y:v z:last]"),
            ("{{.Config.Cmd}} {{.Mounts}} {{.State.Health}}", "[] [] <nil>"),
            ("{{json .RepoTags}}", "[\"a:1\",\"b:2\"]"),
            ("{{json .Config.Labels}}", "{\"a\":\"first\",\"com.x/y\":\"v\",\"z\":\"last\"}"),
            ("{{json .Html}}", "\"<a href=\\\"x\\\">'&'</a>\""),
            ("{{.State.Status | json}}", "\"running\""),
            ("{{index .RepoTags 1}}", "b:2"),
            ("{{index .Config.Labels \"com.x/y\"}}", "v"),
            ("[{{index .Config.Labels \"no\"}}]", "[]"),
            ("{{.Config.Labels.z}} {{.Config.Labels.no}}", "last <no value>"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
            (
                "{{index .NetworkSettings.Ports \"80/tcp\" 0 | json}}",
                "{\"HostIp\":\"0.0.0.0\",\"HostPort\":\"8080\"}",
            ),
            (
                "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{if $conf}}{{(index $conf 0).HostPort}}{{else}}none{{end}}; {{end}}",
                "80/tcp -> 8080; 90/tcp -> none; ",
            ),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.0.0.2 10.0.0.3 "),
            (
                "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}} {{end}}",
                "n1=10.0.0.2 n2=10.0.0.3 ",
            ),
            ("{{range .RepoTags}}{{.}},{{end}}", "a:1,b:2,"),
            ("{{range $i, $t := .RepoTags}}{{if $i}}, {{end}}{{$i}}:{{$t}}{{end}}", "0:a:1, 1:b:2"),
            ("{{range .Mounts}}x{{else}}no mounts{{end}}", "no mounts"),
            ("{{range .RepoTags}}{{if eq . \"b:2\"}}{{break}}{{end}}{{.}}{{end}}", "a:1"),
            ("{{range .RepoTags}}{{if eq . \"a:1\"}}{{continue}}{{end}}{{.}}{{end}}", "b:2"),
            ("{{range .RepoTags}}{{$.Name}}{{end}}", "/web/web"),
            ("{{join .RepoTags \", \"}}", "a:1, b:2"),
            ("{{join .Config.Entrypoint \" \"}}", "sh -c"),
            ("{{split .Name \"e\"}} {{index (split .Id \":\") 1}}", "[/w b] abc"),
            ("{{upper .Name}} {{lower \"ABC\"}} {{title \"a bc\"}}", "/WEB abc A Bc"),
            ("[{{pad \"x\" 1 2}}] {{truncate .Id 3}}", "[ x  ] sha"),
            ("{{len .RepoTags}} {{len .Name}} {{len .Config.Labels}}", "2 4 3"),
            ("{{slice .Id 0 3}} {{slice .RepoTags 1}}", "sha [b:2]"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Mounts}}a{{else if .State.Pid}}b{{else}}c{{end}}", "b"),
            ("{{if and .State.Running (gt .State.Pid 40)}}yes{{end}}", "yes"),
            ("{{or .Mounts \"none\"}} {{and 1 0}} {{not .Mounts}}", "none 0 true"),
            (
                "{{eq .State.Status \"exited\" \"running\"}} {{ne 1 2}} {{lt 1.5 2.5}} {{le 2 2}} {{ge \"b\" \"a\"}}",
                "true true true true true",
            ),
            ("{{with .Config}}{{.Env}}{{end}}{{with .Mounts}}x{{else}}y{{end}}", "[A=1 B=2]y"),
            ("{{with $x := .State.Pid}}{{$x}}{{end}}", "42"),
            ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
            ("{{print \"a\" 1 2 \"b\"}} {{println \"x\" 3}}", "a1 2b x 3\n"),
            (
                "{{printf \"%s|%5d|%-5s|%05.1f|%q|%v|%x|%t|%%\" .Name 42 \"ab\" 3.14159 \"q\" .RepoTags 255 true}}",
                "/web|   42|ab   |003.1|\"q\"|[a:1 b:2]|ff|true|%",
            ),
            ("{{printf \"%d\" \"x\"}} {{printf \"%s\"}}", "%!d(string=x) %!s(MISSING)"),
            ("{{html .Html}}", "&lt;a href=&#34;x&#34;&gt;&#39;&amp;&#39;&lt;/a&gt;"),
            ("{{urlquery \"a b&c\"}} {{js \"it's\"}}", "a+b%26c it\\'s"),
            ("a {{- .Name -}} b", "a/webb"),
            ("a {{- /* comment */ -}} b", "ab"),
            ("{{/* c */}}x{{\"a\\tb\" | printf \"%q\"}}{{`raw\\n`}}", "x\"a\\tb\"raw\\n"),
            ("{{'a'}} {{0x10}} {{-3}} {{1e3}} {{true}}", "97 16 -3 1000 true"),
            ("{{.Name | upper | printf \"%s-%s\" \"x\"}}", "x-/WEB"),
            (
                "{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" .Name}}{{block \"b\" .Id}}[{{.}}]{{end}}",
                "</web>[sha256:abc]",
            ),
            ("{{range 3}}{{.}}{{end}}", "012"),
            ("{{$}}", ""),
        ] {
            if text == "{{$}}" {
                assert!(run(text).starts_with("{sha256:abc /web "), "{}", run(text));
                continue;
            }
            assert_eq!(run(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_empty_is_there_and_gos_names_are_known() {
        let container = json!({
            "Id": "abc", "State": {"OOMKilled": false, "StartedAt": ""},
            "HostConfig": {"NetworkMode": "x", "RestartPolicy": {}, "NanoCpus": 5, "CpuShares": 7, "Dns": ["::1"],
                           "Memory": 9},
            "Config": {"Entrypoint": null, "WorkingDir": ""},
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "::", "HostPort": "8"}]}},
        });
        let volume = json!({"Mountpoint": "/m", "Scope": "local", "Name": "v"});
        for (data, text, want) in [
            (&container, "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
            (&container, "{{with .State.Health}}x{{else}}y{{end}} {{.State.Health}}", "y <nil>"),
            (&container, "{{if .Config.Healthcheck}}x{{end}}{{.Config.ExposedPorts}}", "map[]"),
            (&container, "{{.SizeRw}} {{json .SizeRootFs}}", "<nil> null"),
            (&container, "{{.ID}} {{.Id}}", "abc abc"),
            (&container, "{{with .HostConfig}}{{.NanoCPUs}} {{.CPUShares}} {{.DNS}}{{end}}", "5 7 [::1]"),
            (&container, "{{.HostConfig.Resources.Memory}} {{.HostConfig.Annotations}}", "9 map[]"),
            (
                &container,
                "{{range .NetworkSettings.Ports}}{{range .}}{{.HostIP}} {{.HostPort}}{{end}}{{end}}",
                ":: 8",
            ),
            (&volume, "{{.Status}} {{.UsageData}}", "map[] <nil>"),
            (
                &volume,
                "{{.Health}}",
                "! template: :1:2: executing \"\" at <.Health>: map has no entry for key \"Health\"",
            ),
            (
                &volume,
                "{{.ID}}",
                "! template: :1:2: executing \"\" at <.ID>: map has no entry for key \"ID\"",
            ),
        ] {
            let mut out = String::new();
            let done = Template::parse(text).and_then(|t| t.execute(data.clone(), Kind::Inspect, &mut out));
            let got = done.map_or_else(|error| format!("! {error}"), |()| out);
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn errors_are_gos() {
        for (text, want) in [
            ("{{.Foo", "template: :1: unclosed action"),
            ("{{.Foo}}", "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
            (
                "{{.State.Foo}}",
                "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\"",
            ),
            ("a\n{{.Foo}}", "template: :2:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
            (
                "{{.Name.x}}",
                "template: :1:7: executing \"\" at <.Name.x>: can't evaluate field x in type interface {}",
            ),
            ("{{foo}}", "template: :1: function \"foo\" not defined"),
            ("{{if .Name}}", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            ("{{else}}", "template: :1: unexpected {{else}}"),
            ("{{}}", "template: :1: missing value for command"),
            ("{{\"abc}}", "template: :1: unterminated quoted string"),
            ("{{`abc}}", "template: :1: unterminated raw quoted string"),
            ("{{(.Name}}", "template: :1: unclosed left paren"),
            ("{{.Name)}}", "template: :1: unexpected right paren"),
            ("{{$x}}", "template: :1: undefined variable \"$x\""),
            ("{{.Name | }}", "template: :1: missing value for command"),
            ("{{/* x }}", "template: :1: unclosed comment"),
            ("{{break}}", "template: :1: {{break}} outside {{range}}"),
            (
                "{{index .RepoTags 5}}",
                "template: :1:2: executing \"\" at <index .RepoTags 5>: error calling index: index out of range: 5",
            ),
            (
                "{{index .RepoTags \"a\"}}",
                "template: :1:2: executing \"\" at <index .RepoTags \"a\">: error calling index: cannot index slice/array with type string",
            ),
            (
                "{{call .Name}}",
                "template: :1:2: executing \"\" at <call .Name>: error calling call: non-function .Name of type string",
            ),
            ("{{len 3}}", "template: :1:2: executing \"\" at <len 3>: error calling len: len of type int"),
            (
                "{{eq 1 \"a\"}}",
                "template: :1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
            ),
            (
                "{{range .State.Pid | print}}{{end}}",
                "template: :1:8: executing \"\" at <.State.Pid | print>: range can't iterate over 42",
            ),
            (
                "{{upper}}",
                "template: :1:2: executing \"\" at <upper>: wrong number of args for upper: want 1 got 0",
            ),
            (
                "{{template \"no\"}}",
                "template: :1:11: executing \"\" at <{{template \"no\"}}>: template \"no\" not defined",
            ),
            (
                "{{.Name \"x\"}}",
                "template: :1:2: executing \"\" at <.Name>: Name has arguments but cannot be invoked as function",
            ),
        ] {
            assert_eq!(run(text), format!("! {want}"), "{text}");
        }
    }

    #[test]
    fn hostile_templates_do_not_overflow_the_stack() {
        for text in ["(".repeat(100_000), format!("{{{{{}.{}}}}}", "(".repeat(5_000), ")".repeat(5_000))] {
            let _ = run(&text);
        }
        let nested = format!("{}{}", "{{if .Id}}".repeat(5_000), "{{end}}".repeat(5_000));
        assert!(run(&nested).contains("nested too deeply"));
        assert!(
            run("{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}")
                .contains("exceeded maximum template depth")
        );
    }

    #[test]
    fn rows_and_their_headers() {
        let row = json!({"Names": "web", "_labels": {"a.b": "1"}});
        let render = |text: &str, data: &Value, kind| {
            let mut out = String::new();
            let template = Template::parse(text).expect("parses");
            template.execute(data.clone(), kind, &mut out).map(|()| out).map_err(|error| error.to_string())
        };
        assert_eq!(
            render("{{.Names}} {{.Label \"a.b\"}}", &row, Kind::Row("*formatter.ContainerContext")),
            Ok("web 1".into())
        );
        assert_eq!(
            render("{{.Nope}}", &row, Kind::Row("*formatter.ContainerContext")),
            Err("template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *formatter.ContainerContext".into())
        );
        let header = json!({"Names": "NAMES"});
        assert_eq!(
            render(
                "{{upper .Names}} {{.Label \"com.x.my-name\"}} {{.Nope}} {{truncate .Names 2}}",
                &header,
                Kind::Header
            ),
            Ok("NAMES my name <no value> NAMES".into())
        );
    }
}
