//! From the flags of `build` to the engine's [`Options`].
//!
//! Everything that a flag can say wrongly is refused here, before a store is opened or anybody is asked for a context.

use std::path::PathBuf;

use bulkhead_engine::build::{Options, Secret};
use bulkhead_engine::config::Resources;
use bulkhead_engine::image::{self, Platform, Reference};

use super::refused;
use crate::cli::Globals;
use crate::cli::build::BuildArgs;
use crate::failure::Failure;
use crate::options::output::Output;
use crate::options::{cache, env};

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// A path that means the same whatever becomes of the working directory, which a mount may change.
pub(super) fn absolute(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}

/// `id=x[,src=path][,env=NAME]`.
fn secret(text: &str) -> Result<(String, Secret), Failure> {
    let (mut id, mut source) = (None, None);
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| refused(format!("invalid field '{field}' must be a key=value pair")))?;
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => source = Some(Secret::File(absolute(value))),
            "env" => {
                let text = env::lookup(value)
                    .ok_or_else(|| refused(format!("environment variable {value} of secret is not set")))?;
                source = Some(Secret::Value(text));
            }
            "type" if matches!(value, "file" | "env") => {}
            _ => return Err(refused(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| refused("secret missing id"))?;
    let source = source.unwrap_or_else(|| match env::lookup(&id) {
        Some(text) => Secret::Value(text),
        None => Secret::File(absolute(&id)),
    });
    Ok((id, source))
}

/// The names that the image is to have.
fn names(args: &BuildArgs, outputs: &[Output]) -> Result<Vec<Reference>, Failure> {
    let further = outputs.iter().flat_map(|output| match output {
        Output::Image { names, .. } => names.as_slice(),
        _ => &[],
    });
    let name = |text: &String| {
        let name =
            Reference::parse(text).map_err(|error| refused(format!("invalid tag {text:?}: {error}")))?;
        if name.digest().is_some() {
            return Err(refused(format!("invalid tag {text:?}: {}", image::Error::TagDigest)));
        }
        Ok(name.tagged())
    };
    args.tag.iter().chain(further).map(name).collect()
}

/// The options, without the Dockerfile and the context. Whoever wants `only_files` wants no name of an older image moved.
pub(super) fn options(
    globals: &Globals,
    args: &BuildArgs,
    outputs: &[Output],
    only_files: bool,
) -> Result<Options, Failure> {
    let names = if only_files { Vec::new() } else { names(args, outputs)? };
    let build_args = args.build_arg.iter().filter_map(|text| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => env::lookup(text).map(|value| (text.clone(), value)),
    });
    let platform = args.platform.as_deref().map(Platform::parse).transpose();
    platform.map_err(|error| refused(format!("failed to parse platform: {error}")))?;
    if args.no_cache && !args.no_cache_filter.is_empty() {
        return Err(refused("--no-cache and --no-cache-filter cannot currently be used together"));
    }
    let mut cache_from = Vec::new();
    for text in &args.cache_from {
        cache_from.extend(cache::sources(text).map_err(refused)?);
    }
    for text in &args.cache_to {
        cache::inline(text).map_err(refused)?;
    }
    let secrets = args.secret.iter().map(|text| secret(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(Options {
        dockerfile: String::new(),
        lasting: false,
        context: None,
        names,
        args: build_args.collect(),
        target: args.target.clone(),
        labels: args.label.iter().map(|text| pair(text)).collect(),
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        cache_from,
        inline_cache: !args.cache_to.is_empty(),
        pull: args.pull,
        network: args.network.clone(),
        hosts: args.add_host.clone(),
        shm_size: args.shm_size.unwrap_or(0),
        resources: Resources {
            memory: args.memory.unwrap_or(0),
            memory_swap: args.memory_swap.unwrap_or(0),
            nano_cpus: args.cpus.unwrap_or(0),
            cpu_shares: args.cpu_shares.unwrap_or(0),
            cpu_period: args.cpu_period.unwrap_or(0),
            cpu_quota: args.cpu_quota.unwrap_or(0),
            cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: args.cpuset_mems.clone().unwrap_or_default(),
            ulimits: args.ulimit.clone(),
            ..Resources::default()
        },
        cgroup_parent: args.cgroup_parent.clone().unwrap_or_else(|| globals.cgroup_parent.clone()),
        platform: args.platform.clone(),
        secrets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read() {
        assert_eq!(secret("id=a,src=/x").expect("file"), ("a".to_owned(), Secret::File("/x".into())));
        assert!(secret("src=/x").is_err() && secret("id=a,foo=b").is_err() && secret("id").is_err());
    }
}
