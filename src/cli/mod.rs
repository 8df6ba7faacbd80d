//! The command line's grammar: which verbs there are, under which names, with which flags.
//!
//! Docker names one verb in several ways (`ps`, `container ls`, `container list`); all of them lead to one
//! row of [`VERBS`]. A row knows how to build its own [`clap::Command`] and nothing else's, because building
//! the whole tree costs more than the kernel needs to start a container: [`dispatch`] scans the global flags,
//! finds the row that the words name and builds only that. The whole tree, built by [`tree`], exists for
//! help texts, shell completions and man pages.

pub mod build;
pub mod container;
pub mod grammar;
pub mod image;
pub mod network;
pub mod oci;
pub mod registry;
pub mod run;
pub mod serve;
pub mod system;
pub mod trace;
pub mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};

use crate::commands;
use crate::failure::Failure;

/// Flags that stand before the verb.
#[derive(Debug, Clone, clap::Args)]
pub struct Globals {
    /// Directory of images, layers and containers
    #[arg(long, value_name = "dir", env = "BULKHEAD_ROOT", default_value = "/var/lib/bulkhead")]
    pub root: PathBuf,
    /// Directory of sockets, locks and pids
    #[arg(long, value_name = "dir", env = "BULKHEAD_RUN_ROOT", default_value = "/run/bulkhead")]
    pub run_root: PathBuf,
    /// Cgroup that containers are made under unless they name another
    #[arg(long, value_name = "path", env = "BULKHEAD_CGROUP_PARENT", default_value = "/bulkhead")]
    pub cgroup_parent: String,
    /// Tell on standard error what is done
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Print version information and quit
    #[arg(short = 'v', long)]
    pub version: bool,
}

impl Globals {
    /// The store's two roots.
    pub fn layout(&self) -> bulkhead_engine::store::Layout {
        bulkhead_engine::store::Layout { root: self.root.clone(), run_root: self.run_root.clone() }
    }

    /// Opens the store.
    pub fn store(&self) -> Result<bulkhead_engine::store::Store, Failure> {
        bulkhead_engine::store::Store::open(self.layout()).map_err(Failure::daemon)
    }
}

/// Of a verb that takes none.
#[derive(Debug, Clone, clap::Args)]
pub struct NoArgs {}

/// A word that verbs are grouped under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `bulkhead builder …`
    Builder,
    /// `bulkhead container …`
    Container,
    /// `bulkhead image …`
    Image,
    /// `bulkhead network …`
    Network,
    /// `bulkhead system …`
    System,
    /// `bulkhead volume …`
    Volume,
}

impl Group {
    /// Every group, in the order of the help text.
    pub const ALL: [Self; 6] =
        [Self::Builder, Self::Container, Self::Image, Self::Network, Self::System, Self::Volume];

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Builder => "builder",
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::System => "system",
            Self::Volume => "volume",
        }
    }

    /// What it is called besides: buildx has the words of the group it took the place of.
    fn is_called(self, word: &str) -> bool {
        self.name() == word || (self == Self::Builder && word == "buildx")
    }

    fn about(self) -> &'static str {
        match self {
            Self::Builder => "Manage builds",
            Self::Container => "Manage containers",
            Self::Image => "Manage images",
            Self::Network => "Manage networks",
            Self::System => "Manage Bulkhead",
            Self::Volume => "Manage volumes",
        }
    }
}

/// One verb.
pub struct Verb {
    /// The group it is in, if any.
    pub group: Option<Group>,
    /// Its names inside the group; the first is the proper one.
    pub grouped: &'static [&'static str],
    /// Its names without a group; the first is the one help texts use.
    pub top: &'static [&'static str],
    /// What may follow its name, one line per form.
    pub usage: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Not in help texts.
    pub hidden: bool,
    args: fn(Command) -> Command,
    run: fn(&Globals, &mut ArgMatches) -> Result<u8, Failure>,
}

impl Verb {
    /// Its clap command, named `name`, in Docker's flag grammar.
    fn command(&self, name: &'static str, path: &str) -> Command {
        self.describe(grammar::docker((self.args)(Command::new(name))), path)
    }

    /// The same for help texts, completions and man pages.
    fn shown(&self, name: &'static str, path: &str) -> Command {
        self.describe(grammar::shown((self.args)(Command::new(name))), path)
    }

    fn describe(&self, command: Command, path: &str) -> Command {
        let usage = self
            .usage
            .lines()
            .map(|form| format!("bulkhead {path} {form}").trim_end().to_owned())
            .collect::<Vec<_>>();
        let usage = if usage.is_empty() { format!("bulkhead {path}") } else { usage.join("\n\t") };
        command.about(self.about).override_usage(usage).hide(self.hidden)
    }
}

macro_rules! verb {
    ($group:expr, [$($grouped:literal),*], [$($top:literal),*], $usage:literal, $about:literal, $args:ty, $run:path) => {
        verb!($group, [$($grouped),*], [$($top),*], $usage, $about, $args, $run, false)
    };
    ($group:expr, [$($grouped:literal),*], [$($top:literal),*], $usage:literal, $about:literal, $args:ty, $run:path, $hidden:literal) => {
        Verb {
            group: $group,
            grouped: &[$($grouped),*],
            top: &[$($top),*],
            usage: $usage,
            about: $about,
            hidden: $hidden,
            args: <$args as clap::Args>::augment_args,
            run: |globals, matches| {
                let args = <$args as clap::FromArgMatches>::from_arg_matches_mut(matches)
                    .map_err(|error| Failure::plain(error.to_string().trim_end().to_owned()))?;
                $run(globals, &args)
            },
        }
    };
}

const B: Option<Group> = Some(Group::Builder);
const C: Option<Group> = Some(Group::Container);
const I: Option<Group> = Some(Group::Image);
const N: Option<Group> = Some(Group::Network);
const S: Option<Group> = Some(Group::System);
const V: Option<Group> = Some(Group::Volume);

/// Every verb that works. Columns: group, names inside the group, names at the top, usage, sentence,
/// arguments, function.
#[rustfmt::skip]
pub static VERBS: &[Verb] = &[
    verb!(C, ["attach"], ["attach"], "[OPTIONS] CONTAINER", "Attach local standard input, output, and error streams to a running container", container::AttachArgs, commands::attach::run),
    verb!(C, ["commit"], ["commit"], "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", "Create a new image from a container's changes", container::CommitArgs, commands::changes::commit),
    verb!(C, ["cp"], ["cp"], "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH", "Copy files/folders between a container and the local filesystem", container::CpArgs, commands::cp::run),
    verb!(C, ["diff"], ["diff"], "CONTAINER", "Inspect changes to files or directories on a container's filesystem", container::OneContainer, commands::changes::diff),
    verb!(C, ["export"], ["export"], "[OPTIONS] CONTAINER", "Export a container's filesystem as a tar archive", container::ExportArgs, commands::changes::export),
    verb!(C, ["exec"], ["exec"], "[OPTIONS] CONTAINER COMMAND [ARG...]", "Execute a command in a running container", container::ExecArgs, commands::exec::run),
    verb!(C, ["kill"], ["kill"], "[OPTIONS] CONTAINER [CONTAINER...]", "Kill one or more running containers", container::KillArgs, commands::lifecycle::kill),
    verb!(C, ["logs"], ["logs"], "[OPTIONS] CONTAINER", "Fetch the logs of a container", container::LogsArgs, commands::logs::run),
    verb!(C, ["pause"], ["pause"], "CONTAINER [CONTAINER...]", "Pause all processes within one or more containers", container::Containers, commands::lifecycle::pause),
    verb!(C, ["ls", "list", "ps"], ["ps"], "[OPTIONS]", "List containers", container::PsArgs, commands::ps::run),
    verb!(C, ["rename"], ["rename"], "CONTAINER NEW_NAME", "Rename a container", container::RenameArgs, commands::lifecycle::rename),
    verb!(C, ["restart"], ["restart"], "[OPTIONS] CONTAINER [CONTAINER...]", "Restart one or more containers", container::StopArgs, commands::lifecycle::restart),
    verb!(C, ["rm", "remove"], ["rm"], "[OPTIONS] CONTAINER [CONTAINER...]", "Remove one or more containers", container::RmArgs, commands::lifecycle::rm),
    verb!(C, ["create"], ["create"], "[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", run::CreateArgs, commands::run::create),
    verb!(C, ["run"], ["run"], "[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image", run::RunArgs, commands::run::run),
    verb!(C, ["start"], ["start"], "[OPTIONS] CONTAINER [CONTAINER...]", "Start one or more stopped containers", container::StartArgs, commands::lifecycle::start),
    verb!(C, ["stats"], ["stats"], "[OPTIONS] [CONTAINER...]", "Display a live stream of container(s) resource usage statistics", container::StatsArgs, commands::stats::run),
    verb!(C, ["stop"], ["stop"], "[OPTIONS] CONTAINER [CONTAINER...]", "Stop one or more running containers", container::StopArgs, commands::lifecycle::stop),
    verb!(C, ["unpause"], ["unpause"], "CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers", container::Containers, commands::lifecycle::unpause),
    verb!(C, ["update"], ["update"], "[OPTIONS] CONTAINER [CONTAINER...]", "Update configuration of one or more containers", container::UpdateArgs, commands::update::run),
    verb!(C, ["wait"], ["wait"], "CONTAINER [CONTAINER...]", "Block until one or more containers stop, then print their exit codes", container::Containers, commands::lifecycle::wait),
    verb!(C, ["prune"], [], "[OPTIONS]", "Remove all stopped containers", container::ContainerPruneArgs, commands::prune::containers),
    verb!(I, ["build"], ["build"], "[OPTIONS] PATH|-", "Build an image from a Dockerfile", build::BuildArgs, commands::build::run),
    verb!(B, ["build", "b"], [], "[OPTIONS] PATH|-", "Build an image from a Dockerfile", build::BuildArgs, commands::build::run),
    verb!(B, ["du"], [], "[OPTIONS]", "Show what the build cache holds", build::FormatArgs, commands::build::du),
    verb!(B, ["ls"], [], "[OPTIONS]", "List builders: there is one", build::FormatArgs, commands::build::ls),
    verb!(B, ["version"], [], "", "Show the version of the builder", NoArgs, commands::build::version),
    verb!(B, ["prune"], [], "[OPTIONS]", "Remove build cache", build::PruneArgs, commands::build::prune),
    verb!(I, ["history"], ["history"], "[OPTIONS] IMAGE", "Show the history of an image", image::HistoryArgs, commands::images::history),
    verb!(I, ["ls", "list"], ["images"], "[OPTIONS] [REPOSITORY[:TAG]]", "List images", image::ImagesArgs, commands::images::run),
    verb!(I, ["prune"], [], "[OPTIONS]", "Remove unused images", image::ImagePruneArgs, commands::images::prune),
    verb!(S, ["prune"], [], "[OPTIONS]", "Remove unused data", system::SystemPruneArgs, commands::prune::system),
    verb!(I, ["import"], ["import"], "[OPTIONS] file|- [REPOSITORY[:TAG]]", "Import the contents from a tarball to create a filesystem image", image::ImportArgs, commands::store::import),
    verb!(I, ["load"], ["load"], "[OPTIONS]", "Load an image from a tar archive or STDIN", image::LoadArgs, commands::store::load),
    verb!(I, ["pull"], ["pull"], "[OPTIONS] NAME[:TAG|@DIGEST]", "Download an image from a registry", registry::PullArgs, commands::registry::pull),
    verb!(I, ["push"], ["push"], "[OPTIONS] NAME[:TAG]", "Upload an image to a registry", registry::PushArgs, commands::registry::push),
    verb!(I, ["rm", "remove"], ["rmi"], "[OPTIONS] IMAGE [IMAGE...]", "Remove one or more images", image::RmiArgs, commands::store::rmi),
    verb!(I, ["save"], ["save"], "[OPTIONS] IMAGE [IMAGE...]", "Save one or more images to a tar archive (streamed to STDOUT by default)", image::SaveArgs, commands::store::save),
    verb!(I, ["tag"], ["tag"], "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", image::TagArgs, commands::store::tag),
    verb!(None, [], ["search"], "[OPTIONS] TERM", "Search Docker Hub, or another registry, for images", registry::SearchArgs, commands::registry::search),
    verb!(None, [], ["login"], "[OPTIONS] [SERVER]", "Authenticate to a registry", registry::LoginArgs, commands::registry::login),
    verb!(None, [], ["logout"], "[SERVER]", "Log out from a registry", registry::LogoutArgs, commands::registry::logout),
    verb!(S, ["events"], ["events"], "[OPTIONS]", "Get real time events from the server", system::EventsArgs, commands::events::run),
    verb!(S, ["df"], [], "[OPTIONS]", "Show disk usage", system::DfArgs, commands::df::run),
    verb!(S, ["info"], ["info"], "[OPTIONS]", "Display system-wide information", system::InfoArgs, commands::info::run),
    verb!(None, [], ["inspect"], "[OPTIONS] NAME|ID [NAME|ID...]", "Return low-level information on Bulkhead objects", system::InspectArgs, commands::inspect::run),
    verb!(C, ["inspect"], [], "[OPTIONS] CONTAINER [CONTAINER...]", "Display detailed information on one or more containers", container::ContainerInspectArgs, commands::inspect::containers),
    verb!(I, ["inspect"], [], "[OPTIONS] IMAGE [IMAGE...]", "Display detailed information on one or more images", image::ImageInspectArgs, commands::inspect::images),
    verb!(C, ["top"], ["top"], "[CONTAINER [ps OPTIONS]]", "Display the running processes of a container, or all containers live", container::TopArgs, commands::live::run),
    verb!(C, ["port"], ["port"], "CONTAINER [PRIVATE_PORT[/PROTO]]", "List port mappings or a specific mapping for the container", network::PortArgs, commands::network::port),
    verb!(N, ["connect"], [], "[OPTIONS] NETWORK CONTAINER", "Connect a container to a network", network::ConnectArgs, commands::network::connect),
    verb!(N, ["create"], [], "[OPTIONS] NETWORK", "Create a network", network::CreateArgs, commands::network::create),
    verb!(N, ["disconnect"], [], "[OPTIONS] NETWORK CONTAINER", "Disconnect a container from a network", network::DisconnectArgs, commands::network::disconnect),
    verb!(N, ["inspect"], [], "[OPTIONS] NETWORK [NETWORK...]", "Display detailed information on one or more networks", network::InspectArgs, commands::inspect::networks),
    verb!(N, ["ls", "list"], [], "[OPTIONS]", "List networks", network::LsArgs, commands::network::ls),
    verb!(N, ["prune"], [], "[OPTIONS]", "Remove all unused networks", network::PruneArgs, commands::network::prune),
    verb!(N, ["reload"], [], "", "Put bridges and rules back after somebody else has flushed them", NoArgs, commands::network::reload),
    verb!(N, ["rm", "remove"], [], "NETWORK [NETWORK...]", "Remove one or more networks", network::RmArgs, commands::network::rm),
    verb!(V, ["create"], [], "[OPTIONS] [VOLUME]", "Create a volume", volume::CreateArgs, commands::volume::create),
    verb!(V, ["inspect"], [], "[OPTIONS] VOLUME [VOLUME...]", "Display detailed information on one or more volumes", volume::InspectArgs, commands::inspect::volumes),
    verb!(V, ["ls", "list"], [], "[OPTIONS]", "List volumes", volume::LsArgs, commands::volume::ls),
    verb!(V, ["prune"], [], "[OPTIONS]", "Remove unused local volumes", volume::PruneArgs, commands::volume::prune),
    verb!(V, ["rm", "remove"], [], "[OPTIONS] VOLUME [VOLUME...]", "Remove one or more volumes", volume::RmArgs, commands::volume::rm),
    verb!(None, [], ["caretaker"], "FD", "Take away what the last container on a bridge has left", network::CaretakerArgs, commands::network::caretaker, true),
    verb!(None, [], ["resolver"], "ID FD...", "Answer for the names of one network", network::ResolverArgs, commands::network::resolver, true),
    verb!(None, [], ["monitor"], "ID CONTROL LOCK", "Hold one container", container::MonitorArgs, commands::monitor::run, true),
    verb!(None, [], ["exec-session"], "CONTROL", "Hold one exec of the API", container::SessionArgs, commands::monitor::session, true),
    verb!(None, [], ["build-step"], "ID CONTROL LOCK", "Run one step of a build", container::MonitorArgs, commands::build::step, true),
    verb!(None, [], ["check"], "[OPTIONS] [limits]", "Show what this host offers, each feature tried, or whether limits hold", system::CheckArgs, commands::check::run),
    verb!(None, [], ["trace"], "[OPTIONS] [exec|net|dns|oom|all] [CONTAINER...]", "Show what containers execute, whom they talk to and how they end", trace::TraceArgs, commands::trace::run),
    verb!(None, [], ["metrics"], "[OPTIONS]", "Print metrics of containers once, as Prometheus reads them", serve::MetricsArgs, commands::serve::once),
    verb!(None, [], ["oci"], "[OPTIONS] COMMAND [ARG...]", "Be an OCI runtime for podman, containerd and CRI-O", oci::OciArgs, commands::oci::run),
    verb!(None, [], ["compose"], "[OPTIONS] COMMAND", "Run docker-compose with this engine", serve::ComposeArgs, commands::compose::run),
    verb!(None, [], ["serve"], "[OPTIONS]", "Serve metrics of containers or the API until it is told to end", serve::ServeArgs, commands::serve::run),
    verb!(None, [], ["version"], "[OPTIONS]", "Show the version information", system::VersionArgs, commands::info::version),
    verb!(None, [], ["completion"], "SHELL", "Print the completion script of a shell (bash, zsh, fish)", system::CompletionArgs, commands::completion::run),
    verb!(None, [], ["man"], "DIR", "Write the man pages into a directory", system::ManArgs, commands::man::run),
];

/// Runs the command line.
pub fn dispatch(argv: Vec<OsString>) -> Result<u8, Failure> {
    let scan = grammar::globals(Globals::augment_args(
        Command::new("bulkhead").override_usage("bulkhead [OPTIONS] COMMAND"),
    ));
    let mut matches = scan.try_get_matches_from(argv).map_err(|error| {
        if error.kind() == clap::error::ErrorKind::DisplayHelp {
            return help(&mut tree());
        }
        grammar::refuse(&error, &Globals::augment_args(Command::new("bulkhead")), "", "[OPTIONS] COMMAND")
    })?;
    let globals = Globals::from_arg_matches(&matches).map_err(|error| Failure::plain(error.to_string()))?;
    if globals.version {
        return commands::version::short();
    }
    let Some((word, mut rest)) = matches.remove_subcommand() else {
        return Err(help(&mut tree()));
    };
    let mut words: Vec<OsString> = vec![OsString::from(&word)];
    words.extend(rest.remove_many::<OsString>("").into_iter().flatten());

    let (verb, name, path, skip) = match find(&words) {
        Found::Verb { verb, name, path, skip } => (verb, name, path, skip),
        // Asked for, a help text is the output; else it is a complaint.
        Found::Group(group) if words.len() == 1 => {
            return Err(Failure {
                message: group_command(group).render_help().to_string().trim_end().to_owned(),
                ..Failure::exit(0)
            });
        }
        Found::Group(group) => return Err(help(&mut group_command(group))),
        Found::Help(words) => return Err(help_for(&words)),
        Found::Nothing { words, group } => {
            let (usage, see) = group.map_or_else(Default::default, |group| {
                let name = group.name();
                (format!("Usage:  bulkhead {name}\n\n"), format!("{name} "))
            });
            return Err(Failure::plain(format!(
                "bulkhead: unknown command: bulkhead {words}\n\n{usage}Run 'bulkhead {see}--help' for more information"
            )));
        }
    };
    // Never dropped: to take a hundred flags apart again is work of which nobody has anything.
    let mut command = std::mem::ManuallyDrop::new(verb.command(name, &path));
    let argv = std::iter::once(OsString::from(name)).chain(words.into_iter().skip(skip));
    match command.try_get_matches_from_mut(argv) {
        Ok(mut matches) => (verb.run)(&globals, &mut matches),
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => Err(help_of(verb, name, &path)),
        Err(error) => Err(grammar::refuse(&error, &command, &path, verb.usage)),
    }
}

enum Found {
    Verb { verb: &'static Verb, name: &'static str, path: String, skip: usize },
    Group(Group),
    Help(Vec<String>),
    Nothing { words: String, group: Option<Group> },
}

fn find(words: &[OsString]) -> Found {
    let text = |index: usize| words.get(index).map(|word| word.to_string_lossy().into_owned());
    let first = text(0).unwrap_or_default();
    if first == "help" {
        return Found::Help(words[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect());
    }
    if let Some(group) = Group::ALL.into_iter().find(|group| group.is_called(&first)) {
        let Some(second) = text(1) else { return Found::Group(group) };
        if second == "--help" || second == "-h" {
            return Found::Group(group);
        }
        for verb in VERBS.iter().filter(|verb| verb.group == Some(group)) {
            if let Some(name) = verb.grouped.iter().find(|name| **name == second) {
                return Found::Verb { verb, name, path: format!("{first} {name}"), skip: 2 };
            }
        }
        return Found::Nothing { words: format!("{first} {second}"), group: Some(group) };
    }
    for verb in VERBS {
        if let Some(name) = verb.top.iter().find(|name| **name == first) {
            return Found::Verb { verb, name, path: (*name).to_owned(), skip: 1 };
        }
    }
    Found::Nothing { words: first, group: None }
}

/// `bulkhead help WORDS`.
fn help_for(words: &[String]) -> Failure {
    if words.is_empty() {
        return help(&mut tree());
    }
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    match find(&words) {
        Found::Verb { verb, name, path, .. } => help_of(verb, name, &path),
        Found::Group(group) => help(&mut group_command(group)),
        Found::Help(_) => help(&mut tree()),
        Found::Nothing { words, .. } => Failure::plain(format!("unknown help topic: {words}")),
    }
}

/// A verb's help text, with the other names it has.
fn help_of(verb: &Verb, name: &'static str, path: &str) -> Failure {
    let grouped = verb
        .group
        .into_iter()
        .flat_map(|group| verb.grouped.iter().map(move |name| format!("bulkhead {} {name}", group.name())));
    let names: Vec<String> = grouped.chain(verb.top.iter().map(|name| format!("bulkhead {name}"))).collect();
    let mut command = verb.shown(name, path);
    if names.len() > 1 {
        command = command.before_help(format!("Aliases:\n  {}\n", names.join(", ")));
    }
    help(&mut command)
}

fn help(command: &mut Command) -> Failure {
    Failure::help(command.render_help().to_string())
}

fn group_command(group: Group) -> Command {
    let mut command = grammar::shown(Command::new(group.name()))
        .about(group.about())
        .override_usage(format!("bulkhead {} COMMAND", group.name()))
        .help_template(grammar::GROUP_HELP)
        .after_help(format!(
            "Run 'bulkhead {} COMMAND --help' for more information on a command.",
            group.name()
        ));
    let mut verbs: Vec<&Verb> = VERBS.iter().filter(|verb| verb.group == Some(group)).collect();
    verbs.sort_by_key(|verb| verb.grouped[0]);
    for verb in verbs {
        let name = verb.grouped[0];
        command = command.subcommand(
            verb.shown(name, &format!("{} {name}", group.name()))
                .visible_aliases(verb.grouped[1..].iter().copied()),
        );
    }
    command
}

/// The whole tree, for help, completions and man pages.
pub fn tree() -> Command {
    let mut command = grammar::shown(Globals::augment_args(Command::new("bulkhead")))
        .about("A container engine that keeps its hot paths next to the kernel")
        .override_usage("bulkhead [OPTIONS] COMMAND")
        .version(commands::version::VERSION)
        .disable_version_flag(true)
        .help_template(grammar::ROOT_HELP)
        .after_help("Run 'bulkhead COMMAND --help' for more information on a command.");
    for group in Group::ALL {
        if VERBS.iter().any(|verb| verb.group == Some(group)) {
            command = command.subcommand(group_command(group));
        }
    }
    let mut verbs: Vec<&Verb> = VERBS.iter().filter(|verb| !verb.top.is_empty()).collect();
    verbs.sort_by_key(|verb| verb.top[0]);
    for verb in verbs {
        command = command
            .subcommand(verb.shown(verb.top[0], verb.top[0]).visible_aliases(verb.top[1..].iter().copied()));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_well_formed() {
        tree().debug_assert();
    }

    #[test]
    fn no_two_verbs_share_a_name() {
        let mut names: Vec<String> = VERBS
            .iter()
            .flat_map(|verb| {
                let grouped = verb
                    .group
                    .into_iter()
                    .flat_map(|g| verb.grouped.iter().map(move |n| format!("{} {n}", g.name())));
                verb.top.iter().map(|n| (*n).to_owned()).chain(grouped).collect::<Vec<_>>()
            })
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    fn parse<A: clap::Args>(argv: &[&str]) -> Result<A, Failure> {
        let mut command = grammar::docker(A::augment_args(Command::new("x")));
        let mut matches = command
            .try_get_matches_from_mut(std::iter::once("x").chain(argv.iter().copied()))
            .map_err(|error| grammar::refuse(&error, &command, "x", "USAGE"))?;
        Ok(A::from_arg_matches_mut(&mut matches).expect("matches are of the command"))
    }

    fn refusal<A: clap::Args + std::fmt::Debug>(argv: &[&str]) -> (u8, String) {
        let failure = parse::<A>(argv).expect_err("refused");
        (failure.code, failure.message.lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn flags_end_where_the_containers_command_begins() {
        let args =
            parse::<run::RunArgs>(&["--rm", "-it", "alpine", "ls", "-la", "--rm", "--", "-x"]).expect("run");
        assert!(args.container.rm && args.container.interactive && args.container.tty && !args.detach);
        assert_eq!(args.container.image(), "alpine");
        assert_eq!(args.container.command(), ["ls", "-la", "--rm", "--", "-x"]);
        for argv in [&["alpine", "--", "ls"][..], &["--", "alpine", "--", "ls"]] {
            let args = parse::<run::RunArgs>(argv).expect("run");
            assert_eq!(args.container.image_and_command, ["alpine", "--", "ls"], "{argv:?}");
        }
        let args = parse::<run::RunArgs>(&["alpine", "-d"]).expect("run");
        assert_eq!((args.detach, args.container.command()), (false, &["-d".to_owned()][..]));
        let args = parse::<container::ExecArgs>(&["-i", "c", "sh", "-c", "ls -i", "-t"]).expect("exec");
        assert_eq!((args.interactive, args.tty), (true, false));
        assert_eq!(args.container_and_command, ["c", "sh", "-c", "ls -i", "-t"]);
        let args = parse::<container::TopArgs>(&["c", "-o", "pid"]).expect("top");
        assert_eq!(args.container_and_options, ["c", "-o", "pid"]);
    }

    #[test]
    fn flags_may_follow_operands_elsewhere() {
        let args = parse::<image::ImagesArgs>(&["hello-world", "-q"]).expect("images");
        assert_eq!((args.repository.as_deref(), args.quiet), (Some("hello-world"), true));
        let args = parse::<container::CpArgs>(&["c:/a/.", "data/", "-a"]).expect("cp");
        assert!(args.archive);
        let args = parse::<container::PsArgs>(&["-qf", "status=exited", "-a"]).expect("ps");
        assert_eq!((args.quiet, args.all, args.filter.len()), (true, true, 1));
    }

    #[test]
    fn flags_have_pflags_habits() {
        let args = parse::<run::RunArgs>(&[
            "-t=false",
            "--rm=true",
            "--sig-proxy=false",
            "--pids-limit",
            "-1",
            "--memory-swap",
            "-1",
            "-e",
            "-x=1",
            "-p80:80",
            "--name=a",
            "--name",
            "b",
            "-d",
            "-d",
            "-h",
            "box",
            "--init",
            "--network-alias",
            "a",
            "-c=5",
            "i",
        ])
        .expect("run");
        let container = &args.container;
        assert_eq!((container.tty, container.rm, args.sig_proxy, args.detach), (false, true, false, true));
        assert_eq!((container.pids_limit, container.memory_swap), (Some(-1), Some(-1)));
        assert_eq!(
            (container.env.as_slice(), container.publish.as_slice()),
            (&["-x=1".to_owned()][..], &["80:80".to_owned()][..])
        );
        assert_eq!((container.name.as_deref(), container.hostname.as_deref()), (Some("b"), Some("box")));
        assert_eq!((container.init, container.cpu_shares, container.image()), (Some(true), Some(5), "i"));
        assert!(parse::<container::AttachArgs>(&["c"]).expect("attach").sig_proxy);
        assert!(!parse::<container::CommitArgs>(&["-p=false", "c"]).expect("commit").pause);
        assert_eq!(
            parse::<run::RunArgs>(&["--net", "host", "i"]).expect("run").container.network[0].target,
            "host"
        );
    }

    #[test]
    fn refusals_are_dockers() {
        use run::RunArgs;
        for (argv, want) in [
            (&["--foo", "i"][..], "unknown flag: --foo"),
            (&["--foo=bar", "i"], "unknown flag: --foo"),
            (&["-x", "i"], "unknown shorthand flag: 'x' in -x"),
            (&["-dx", "i"], "unknown shorthand flag: 'x' in -x"),
            (&["--name"], "flag needs an argument: --name"),
            (&["-e"], "flag needs an argument: --env"),
            (&["-m", "abc", "i"], "invalid argument \"abc\" for \"-m, --memory\" flag: invalid size: 'abc'"),
            (&["--memory=", "i"], "invalid argument \"\" for \"-m, --memory\" flag: invalid size: ''"),
            (
                &["-e", "", "i"],
                "invalid argument \"\" for \"-e, --env\" flag: invalid environment variable: ",
            ),
            (
                &["-t=foo", "i"],
                "invalid argument \"foo\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax",
            ),
            (
                &["--pids-limit", "x", "i"],
                "invalid argument \"x\" for \"--pids-limit\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                &["--cpus", "abc", "i"],
                "invalid argument \"abc\" for \"--cpus\" flag: failed to parse abc as a rational number",
            ),
        ] {
            assert_eq!(refusal::<RunArgs>(argv), (125, want.to_owned()), "{argv:?}");
        }
        assert_eq!(
            refusal::<RunArgs>(&[]),
            (1, "bulkhead: 'bulkhead x' requires at least 1 argument".into())
        );
        assert_eq!(
            refusal::<container::ExecArgs>(&["c"]),
            (1, "bulkhead: 'bulkhead x' requires at least 2 arguments".into())
        );
        assert_eq!(
            refusal::<container::PsArgs>(&["c"]),
            (1, "bulkhead: 'bulkhead x' accepts no arguments".into())
        );
        assert_eq!(
            refusal::<image::TagArgs>(&["c"]),
            (1, "bulkhead: 'bulkhead x' requires 2 arguments".into())
        );
        assert_eq!(
            refusal::<container::LogsArgs>(&["a", "b"]),
            (1, "bulkhead: 'bulkhead x' requires 1 argument".into())
        );
        assert_eq!(
            refusal::<image::ImagesArgs>(&["a", "b"]),
            (1, "bulkhead: 'bulkhead x' requires at most 1 argument".into())
        );
        assert_eq!(
            refusal::<container::PsArgs>(&["-f", "foo"]),
            (125, "invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter (expected name=value)".into())
        );
    }
}
