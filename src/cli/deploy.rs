//! The verbs of environments: `skep release`, `rollout`, `plan`, `rollback`, `preview` and `down`.

use std::path::PathBuf;

use super::failure::{Failure, Kind};
use super::terminal::{Style, Text, printable};
use super::{Context, terminal};
use crate::deploy::{Asker, Deployment, Images, SavedPlan};
use crate::registry::Tag;
use crate::release::ReleaseId;
use crate::rollout::{Effect, ImageChange, ImageOf, Proposal, Report};

/// How a rollout goes about it.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct How {
    /// Do not ask whether services answer
    #[arg(long)]
    skip_probes: bool,
    /// Replace replicas of services too that keep files on a node
    #[arg(long)]
    stateful: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Release {
    /// The environment, as skep.toml names it
    environment: String,
    /// Release a work tree with changes that are not committed
    #[arg(long)]
    dirty: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Preview {
    /// Do not ask whether services answer
    #[arg(long)]
    skip_probes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rollout {
    /// The environment, as skep.toml names it
    environment: String,
    #[command(flatten)]
    which: Which,
    /// What `skep plan --out FILE` planned, if the target is still what it was
    #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "tag"])]
    plan: Option<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Ask nothing; nothing is asked anyway, and scripts may say so
    #[arg(long, hide = true)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Which {
    /// The images of this release of the environment [default: the newest]
    #[arg(long, value_name = "ID")]
    release: Option<ReleaseId>,
    /// The images that the registry has under this tag
    #[arg(long)]
    tag: Option<Tag>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// The environment, as skep.toml names it
    environment: String,
    #[command(flatten)]
    which: Which,
    /// Exit with 3 if something would change
    #[arg(long)]
    exit_code: bool,
    /// Keep the plan in FILE, for `skep rollout --plan`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// The environment, as skep.toml names it
    environment: String,
    /// The release [default: the one before]
    id: Option<ReleaseId>,
    /// Go back to a release that ran on another schema; the schema stays where it is
    #[arg(long)]
    across_migrations: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Down {
    /// The environment, as skep.toml names it
    environment: String,
    /// Remove volumes, secrets and the history too
    #[arg(long)]
    volumes: bool,
}

impl Which {
    fn images(self) -> Images {
        match (self.release, self.tag) {
            (Some(id), _) => Images::Of(id),
            (None, Some(tag)) => Images::Tagged(tag),
            (None, None) => Images::Newest,
        }
    }
}

/// Opens an environment for `act`. Failures of actions show the end of their logs.
pub(super) fn within<T>(
    context: &Context,
    environment: &str,
    how: How,
    act: impl FnOnce(&mut Deployment<'_>) -> Result<T, crate::deploy::Error>,
) -> Result<T, Failure> {
    within_tree(context, environment, how, false, act)
}

fn within_tree<T>(
    context: &Context,
    environment: &str,
    how: How,
    dirty: bool,
    act: impl FnOnce(&mut Deployment<'_>) -> Result<T, crate::deploy::Error>,
) -> Result<T, Failure> {
    let setting = context.setting()?;
    let variable = |name: &str| std::env::var(name).ok();
    let asker = Asker {
        by: asker(),
        state_home: state_home()?,
        variable: &variable,
        skip_probes: how.skip_probes,
        stateful: how.stateful,
        dirty,
    };
    let acted =
        Deployment::open(&setting, environment, asker).and_then(|mut deployment| act(&mut deployment));
    let done = acted.map_err(|error| Failure::from(error).with_log_ends(&setting.store));
    context.renderer.finish();
    done
}

fn asker() -> String {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname();
    format!("{user}@{}", host.nodename().to_string_lossy())
}

/// `$XDG_STATE_HOME`, or `.local/state` in the home directory.
fn state_home() -> Result<PathBuf, Failure> {
    let named = std::env::var_os("XDG_STATE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let home = || Some(std::env::home_dir()?.join(".local/state"));
    let nowhere = "nothing says where the state of a preview is kept: neither XDG_STATE_HOME nor HOME is set";
    named
        .filter(|path| path.is_absolute())
        .or_else(home)
        .ok_or_else(|| Failure::new(Kind::Environment, nowhere))
}

pub(super) fn release(context: &Context, arguments: &Release) -> Result<(), Failure> {
    let (environment, how) = (&arguments.environment, arguments.how);
    let report = within_tree(context, environment, how, arguments.dirty, |deployment| {
        deployment.rollout(&Images::Built)
    })?;
    show(context, &arguments.environment, &report);
    Ok(())
}

pub(super) fn preview(context: &Context, arguments: &Preview) -> Result<(), Failure> {
    let release = Release {
        environment: "preview".to_owned(),
        dirty: false,
        how: How {
            skip_probes: arguments.skip_probes,
            stateful: false,
        },
    };
    self::release(context, &release)
}

pub(super) fn rollout(context: &Context, arguments: Rollout) -> Result<(), Failure> {
    let images = arguments.which.images();
    let report = within(
        context,
        &arguments.environment,
        arguments.how,
        |deployment| match &arguments.plan {
            Some(file) => deployment.rollout_plan(SavedPlan::read(file)?),
            None => deployment.rollout(&images),
        },
    )?;
    show(context, &arguments.environment, &report);
    Ok(())
}

pub(super) fn rollback(context: &Context, arguments: &Rollback) -> Result<(), Failure> {
    let report = within(context, &arguments.environment, arguments.how, |deployment| {
        deployment.rollback(arguments.id.as_ref(), arguments.across_migrations)
    })?;
    show(context, &arguments.environment, &report);
    Ok(())
}

pub(super) fn show(context: &Context, environment: &str, report: &Report) {
    if context.json {
        return terminal::print_json(report);
    }
    let mut text = match report.changed {
        true => format!("{environment} runs {}\n", report.release),
        false => format!("{environment} runs {}; nothing to do\n", report.release),
    };
    for (service, address) in &report.addresses {
        text += &format!("{service:12} {address}\n");
    }
    terminal::print(text);
}

pub(super) fn plan(context: &Context, arguments: Plan) -> Result<(), Failure> {
    if context.offline {
        return super::offline::plan(context, &arguments.environment);
    }
    // A plan is made of what there is, and told before anything was ever released.
    let (images, is_newest) = match arguments.which.images() {
        Images::Newest => (Images::Expected, true),
        images => (images, false),
    };
    let (proposal, saved) = within(context, &arguments.environment, How::default(), |deployment| {
        deployment.plan(&images)
    })?;
    match context.json {
        true => terminal::print_json(&proposal),
        false => terminal::print(text(&proposal, terminal::stdout_has_colours())),
    }
    if let Some(file) = &arguments.out {
        saved.write(file)?;
    }
    if is_newest && !context.json {
        let environment = &arguments.environment;
        let hint = format!(
            "with the images of the newest release; `skep release {environment}` builds the sources as they are"
        );
        context.renderer.say(&hint);
    }
    pending(arguments.exit_code, &proposal)
}

/// Exit code 3 where something would change, if that is asked for.
pub(super) fn pending(asked: bool, proposal: &Proposal) -> Result<(), Failure> {
    match asked && !proposal.is_empty() {
        true => Err(Failure::new(Kind::Pending, "changes are pending")),
        false => Ok(()),
    }
}

/// `name sha256:… (revision) → sha256:… (revision)`, with as many digits as tell them apart.
fn image_line(change: &ImageChange) -> String {
    let one = |image: &Option<ImageOf>| match image {
        None => "nothing".to_owned(),
        Some(image) => {
            let digest = image.digest.get(..19).unwrap_or(&image.digest);
            let revision = image.revision.as_ref().map(|revision| format!(" ({revision})"));
            format!("{digest}{}", revision.unwrap_or_default())
        }
    };
    let name = printable(&change.name);
    format!("{name} {} → {}", one(&change.before), one(&change.after))
}

pub(super) fn text(proposal: &Proposal, colours: bool) -> Text {
    let mut text = Text::default();
    for change in &proposal.changes {
        let (sign, what) = match change.effect {
            Effect::Create => ('+', "new"),
            Effect::Replace => ('~', "replaced, one replica at a time"),
            Effect::InPlace => ('~', "changed in place; replicas stay"),
            Effect::Scale => ('~', "scaled; replicas that stay are not touched"),
            Effect::Converge => ('~', "brought to where it was sent"),
            Effect::Remove => ('-', "removed"),
        };
        let stateful = if change.stateful { ", STATEFUL" } else { "" };
        text.push(&format!("{sign} {}: {what}{stateful}\n", change.service));
        if let Some(image) = &change.image {
            text.push(&format!("    {}\n", image_line(image)));
        }
        for line in change
            .diff
            .lines()
            .filter(|line| !line.starts_with("---") && !line.starts_with("+++"))
        {
            let style = match line.as_bytes().first() {
                Some(b'+') => Some(Style::Added),
                Some(b'-') => Some(Style::Removed),
                _ => None,
            };
            text.push("    ");
            text.push_styled(style.filter(|_| colours), &printable(line));
            text.push("\n");
        }
    }
    for (number, stage) in proposal.stages.iter().enumerate() {
        let steps: Vec<String> = stage.iter().map(ToString::to_string).collect();
        text.push(&format!("{}. {}\n", number + 1, steps.join(", ")));
    }
    for problem in &proposal.problems {
        text.push(&format!("! impossible: {}\n", printable(&problem.message)));
    }
    if proposal.is_empty() {
        text.push("nothing to do\n");
    }
    text
}

pub(super) fn down(context: &Context, arguments: &Down) -> Result<(), Failure> {
    let was_up = within(context, &arguments.environment, How::default(), |deployment| {
        deployment.down(arguments.volumes)
    })?;
    match (context.json, was_up) {
        (true, _) => terminal::print_json(&serde_json::json!({ "was_up": was_up })),
        (false, true) => terminal::print(format!("{} is down\n", arguments.environment)),
        (false, false) => terminal::print(format!("{} was not up\n", arguments.environment)),
    }
    Ok(())
}
