//! Compiles the kernel programs, and writes the Rust side of `bpf/events.h`.
//!
//! bindgen would give the structs, but neither a decoder for bytes that are not
//! aligned nor the documentation of the fields, and it brings libclang and
//! some thirty crates into every build of the workspace. The header's grammar is
//! small enough to read here. What is read wrong cannot pass: every size and
//! offset that the decoders use is asserted by the compiler of the programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

const HEADER: &str = "bpf/events.h";
const PROGRAM: &str = "bpf/tracer.bpf.c";

fn main() -> ExitCode {
    for file in [HEADER, PROGRAM, "bpf/kernel.h", "build.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let header = fs::read_to_string(HEADER).map_err(|e| format!("reading {HEADER}: {e}"))?;
    let items = parse(&header)?;

    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).map_err(|e| format!("writing {}: {e}", path.display())).map(|()| path)
    };
    write("wire.rs", &rust(&items)?)?;
    let layout = write("layout.c", &assertions(&items)?)?;

    let clang = Clang::find()?;
    clang.run(&["-fsyntax-only"], &layout)?;
    let object = out.join("tracer.bpf.o");
    clang
        .run(&["-O2", "-g", "-c", "-o", object.to_str().ok_or("OUT_DIR is not UTF-8")?], PROGRAM.as_ref())?;
    // DWARF is three quarters of the object and of no use at run time; the BTF
    // stays. Without llvm-strip the program is only larger.
    let _ = Command::new(clang.program.replace("clang", "llvm-strip")).arg("-g").arg(&object).output();
    Ok(())
}

// ---- the compiler ---------------------------------------------------------

struct Clang {
    program: String,
    target: String,
}

impl Clang {
    fn find() -> Result<Self, String> {
        let target = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
        let mut candidates: Vec<String> = env::var("CLANG").into_iter().collect();
        if candidates.is_empty() {
            candidates.push("clang".into());
            candidates.extend((14..=24).rev().map(|v| format!("clang-{v}")));
        }
        for program in &candidates {
            if Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()) {
                return Ok(Self { program: program.clone(), target });
            }
        }
        Err(format!(
            "the eBPF programs need clang 14 or later (tried {}).\n\
             Debian, Ubuntu: apt install clang llvm libbpf-dev linux-libc-dev\n\
             Fedora: dnf install clang llvm libbpf-devel kernel-headers",
            candidates.join(", ")
        ))
    }

    fn run(&self, args: &[&str], source: &Path) -> Result<(), String> {
        let arch = match self.target.as_str() {
            "x86_64" => "x86",
            "aarch64" => "arm64",
            other => return Err(format!("the registers of {other} are not described in bpf/kernel.h")),
        };
        let mut command = Command::new(&self.program);
        command
            .args(["-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Wextra", "-Werror"])
            // BPF_PROG declares arguments that a program may not need, and the
            // flexible arrays of kernel.h are read through pointers only.
            .args(["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"])
            .arg(format!("-D__TARGET_ARCH_{arch}"))
            .arg("-Ibpf")
            // Debian keeps <asm/types.h> in a directory that a bpf target does not search.
            .arg(format!("-I/usr/include/{}-linux-gnu", self.target))
            .args(args)
            .arg(source);
        let output = command.output().map_err(|e| format!("running {}: {e}", self.program))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("'bpf/") && stderr.contains("file not found") {
            return Err(format!(
                "the eBPF programs need libbpf's headers.\n\
                 Debian, Ubuntu: apt install libbpf-dev\nFedora: dnf install libbpf-devel\n{stderr}"
            ));
        }
        if stderr.contains("file not found") {
            return Err(format!(
                "the eBPF programs need the kernel's user-space headers.\n\
                 Debian, Ubuntu: apt install linux-libc-dev\nFedora: dnf install kernel-headers\n{stderr}"
            ));
        }
        Err(format!("{} failed on {}:\n{stderr}", self.program, source.display()))
    }
}

// ---- events.h ---------------------------------------------------------------

enum Item {
    Constant { name: String, value: u64 },
    Enum { variants: Vec<(String, u64, String)> },
    Struct { name: String, doc: String, fields: Vec<Field> },
}

struct Field {
    name: String,
    doc: String,
    kind: String,
    count: Option<usize>,
}

/// Reads the header line by line; a line it does not know is an error.
fn parse(header: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut constants: BTreeMap<String, u64> = BTreeMap::new();
    let mut doc = String::new();
    let mut in_comment = false;
    let mut open: Option<Item> = None;
    for (number, raw) in header.lines().enumerate() {
        let wrong = |what: &str| format!("{HEADER}:{}: {what}: {raw}", number + 1);
        let line = raw.trim();
        if in_comment || (line.starts_with("/*") && open.is_none()) {
            if !in_comment {
                doc.clear();
            }
            let text = line.trim_start_matches("/*").trim_end_matches("*/").trim_start_matches('*').trim();
            doc.push_str(text);
            doc.push(' ');
            in_comment = !line.ends_with("*/");
            continue;
        }
        let (code, comment) = match line.split_once("/*") {
            Some((code, comment)) => (code.trim(), comment.trim_end_matches("*/").trim().to_owned()),
            None => (line, String::new()),
        };
        if let Some(rest) = code.strip_prefix("#define ") {
            if let Some((name, value)) = rest.split_once(' ') {
                let value = value.trim().parse().map_err(|_| wrong("not a number"))?;
                constants.insert(name.to_owned(), value);
                items.push(Item::Constant { name: name.to_owned(), value });
            }
        } else if code.is_empty() || code.starts_with('#') {
        } else if code.starts_with("enum ") && code.ends_with('{') {
            open = Some(Item::Enum { variants: Vec::new() });
        } else if let Some(name) = code.strip_prefix("struct ").and_then(|c| c.strip_suffix('{')) {
            let name = name.trim().to_owned();
            let doc = doc.trim().to_owned();
            open = Some(Item::Struct { name, doc, fields: Vec::new() });
        } else if code == "};" {
            items.push(open.take().ok_or_else(|| wrong("nothing is open"))?);
            doc.clear();
        } else {
            match open.as_mut().ok_or_else(|| wrong("not understood"))? {
                Item::Enum { variants } => {
                    let (name, value) =
                        code.trim_end_matches(',').split_once('=').ok_or_else(|| wrong("no value"))?;
                    let value = value.trim().parse().map_err(|_| wrong("not a number"))?;
                    variants.push((name.trim().to_owned(), value, comment));
                }
                Item::Struct { fields, .. } => {
                    let code = code.strip_suffix(';').ok_or_else(|| wrong("no semicolon"))?;
                    let (kind, name) = code.rsplit_once(' ').ok_or_else(|| wrong("no type"))?;
                    let (name, count) = match name.split_once('[') {
                        None => (name, None),
                        Some((name, size)) => {
                            let size = size.strip_suffix(']').ok_or_else(|| wrong("no bracket"))?;
                            let size = size.parse().ok().or_else(|| constants.get(size).copied());
                            (name, Some(size.ok_or_else(|| wrong("unknown size"))? as usize))
                        }
                    };
                    if comment.is_empty() {
                        return Err(wrong("a field without documentation"));
                    }
                    fields.push(Field {
                        name: name.to_owned(),
                        doc: comment,
                        kind: kind.trim().to_owned(),
                        count,
                    });
                }
                Item::Constant { .. } => return Err(wrong("not understood")),
            }
        }
    }
    Ok(items)
}

/// Size, alignment and the fields' offsets of each struct by C's rules.
type Layouts = BTreeMap<String, (usize, usize, Vec<usize>)>;

fn layouts(items: &[Item]) -> Result<Layouts, String> {
    let mut known: Layouts = BTreeMap::new();
    for item in items {
        let Item::Struct { name, fields, .. } = item else { continue };
        let (mut at, mut align, mut offsets) = (0, 1, Vec::new());
        for field in fields {
            let (size, field_align) = size_of(&field.kind, &known)?;
            if at % field_align != 0 {
                return Err(format!("{HEADER}: struct {name}: padding before {}", field.name));
            }
            align = align.max(field_align);
            offsets.push(at);
            at += size * field.count.unwrap_or(1);
        }
        if at % align != 0 {
            return Err(format!("{HEADER}: struct {name}: padding at the end"));
        }
        known.insert(name.clone(), (at, align, offsets));
    }
    Ok(known)
}

fn size_of(kind: &str, known: &Layouts) -> Result<(usize, usize), String> {
    Ok(match kind {
        "__u8" => (1, 1),
        "__u16" => (2, 2),
        "__u32" | "__s32" => (4, 4),
        "__u64" | "__s64" => (8, 8),
        other => {
            let name = other.strip_prefix("struct ").unwrap_or(other);
            let (size, align, _) =
                known.get(name).ok_or_else(|| format!("{HEADER}: unknown type {other}"))?;
            (*size, *align)
        }
    })
}

fn rust_type(kind: &str) -> String {
    match kind.strip_prefix("struct ") {
        Some(name) => camel(name),
        None => kind.trim_start_matches("__").replace('s', "i"),
    }
}

fn camel(name: &str) -> String {
    name.split('_').map(|w| w[..1].to_ascii_uppercase() + &w[1..]).collect()
}

fn rust(items: &[Item]) -> Result<String, String> {
    let layouts = layouts(items)?;
    let mut text = String::from("// Written by build.rs from bpf/events.h.\n");
    let w = &mut text;
    let layout = fingerprint(items)?;
    let _ = writeln!(
        w,
        "/// Another number for any other layout: what an event log was written with.\n\
         pub(crate) const LAYOUT: u64 = 0x{:04x}_{:04x}_{:04x}_{:04x};",
        layout >> 48,
        layout >> 32 & 0xffff,
        layout >> 16 & 0xffff,
        layout & 0xffff
    );
    for item in items {
        match item {
            Item::Constant { name, value } => {
                let _ = writeln!(w, "#[allow(dead_code, reason = \"the header is for both sides\")]");
                let _ = writeln!(w, "pub(crate) const {name}: usize = {value};");
            }
            Item::Enum { variants } => {
                for (name, value, doc) in variants {
                    let _ = writeln!(w, "#[allow(dead_code, reason = \"the header is for both sides\")]");
                    let _ = writeln!(w, "/// {doc}\npub(crate) const {name}: u32 = {value};");
                }
            }
            Item::Struct { name, doc, fields } => {
                let camel_name = camel(name);
                let (size, _, offsets) = &layouts[name];
                let _ = writeln!(w, "/// {doc}");
                // The standard library stops at arrays of 32.
                let long = fields.iter().any(|f| f.count.is_some_and(|n| n > 32));
                let derives = if long { "" } else { ", Default" };
                let _ = writeln!(w, "#[derive(Clone, Copy, Debug, PartialEq, Eq{derives})]");
                let _ = writeln!(w, "pub struct {camel_name} {{");
                let (mut reads, mut writes) = (String::new(), String::new());
                for (field, offset) in fields.iter().zip(offsets) {
                    if field.name == "unused" {
                        let (size, _) = size_of(&field.kind, &layouts)?;
                        let _ = writeln!(writes, "        out.extend_from_slice(&[0; {size}]);");
                        continue;
                    }
                    let ty = rust_type(&field.kind);
                    let from = if *offset == 0 { "at".into() } else { format!("at + {offset}") };
                    let element = |at: &str| match field.kind.as_str() {
                        kind if kind.starts_with("struct ") => format!("{ty}::read_at(b, {at})"),
                        _ => format!("{ty}::from_ne_bytes(bytes_at(b, {at}))"),
                    };
                    let (ty_full, read) = match (field.count, field.kind.as_str()) {
                        (None, _) => (ty.clone(), element(&from)),
                        (Some(n), "__u8") => (format!("[u8; {n}]"), format!("bytes_at(b, {from})")),
                        (Some(n), kind) => {
                            let (step, _) = size_of(kind, &layouts)?;
                            let each = element(&format!("{from} + i * {step}"));
                            (format!("[{ty}; {n}]"), format!("std::array::from_fn(|i| {each})"))
                        }
                    };
                    let _ =
                        writeln!(w, "    /// {}\n    pub {}: {ty_full},", capital(&field.doc), field.name);
                    let _ = writeln!(reads, "            {}: {read},", field.name);
                    let name = &field.name;
                    let write = match (field.count, field.kind.starts_with("struct ")) {
                        (Some(_), true) => format!("for each in &self.{name} {{ each.write(out); }}"),
                        (None, true) => format!("self.{name}.write(out);"),
                        (Some(_), false) if field.kind == "__u8" => {
                            format!("out.extend_from_slice(&self.{name});")
                        }
                        (Some(_), false) => {
                            format!(
                                "for each in &self.{name} {{ out.extend_from_slice(&each.to_ne_bytes()); }}"
                            )
                        }
                        (None, false) => format!("out.extend_from_slice(&self.{name}.to_ne_bytes());"),
                    };
                    let _ = writeln!(writes, "        {write}");
                }
                let _ = writeln!(
                    w,
                    "}}\nimpl {camel_name} {{\n    \
                     #[allow(dead_code, reason = \"nested structs are read at their offset\")]\n    \
                     pub(crate) const SIZE: usize = {size};\n    \
                     #[allow(dead_code, reason = \"nested structs are read at their offset\")]\n    \
                     pub(crate) fn read(b: &[u8]) -> Option<Self> {{\n        \
                     (b.len() >= Self::SIZE).then(|| Self::read_at(b, 0))\n    }}\n    \
                     fn read_at(b: &[u8], at: usize) -> Self {{\n        Self {{\n{reads}        }}\n    }}\n    \
                     #[allow(dead_code, clippy::trivially_copy_pass_by_ref, reason = \"not all go back, and one is short\")]\n    \
                     pub(crate) fn write(&self, out: &mut Vec<u8>) {{\n{writes}    }}\n}}"
                );
            }
        }
    }
    Ok(text)
}

/// FNV-1a over everything that makes bytes mean what they mean, and nothing of the comments.
fn fingerprint(items: &[Item]) -> Result<u64, String> {
    let mut meaning = assertions(items)?;
    for item in items {
        match item {
            Item::Constant { name, value } => drop(writeln!(meaning, "{name} {value}")),
            Item::Enum { variants } => {
                for (name, value, _) in variants {
                    let _ = writeln!(meaning, "{name} {value}");
                }
            }
            Item::Struct { name, fields, .. } => {
                for field in fields {
                    let _ = writeln!(meaning, "{name} {} {} {:?}", field.kind, field.name, field.count);
                }
            }
        }
    }
    Ok(meaning
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
}

fn capital(doc: &str) -> String {
    let mut chars = doc.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    first + chars.as_str() + "."
}

fn assertions(items: &[Item]) -> Result<String, String> {
    let mut text = String::from("#include <linux/types.h>\n#include \"events.h\"\n");
    for (name, (size, _, _)) in layouts(items)? {
        let _ = writeln!(text, "_Static_assert(sizeof(struct {name}) == {size}, \"{name}\");");
    }
    let layouts = layouts(items)?;
    for item in items {
        let Item::Struct { name, fields, .. } = item else { continue };
        for (field, offset) in fields.iter().zip(&layouts[name].2) {
            let f = &field.name;
            let _ = writeln!(
                text,
                "_Static_assert(__builtin_offsetof(struct {name}, {f}) == {offset}, \"{name}.{f}\");"
            );
        }
    }
    Ok(text)
}
