//! `skep gc` and `skep fsck`.

use indicatif::HumanBytes;

use super::failure::{Failure, Kind};
use super::{Context, terminal};
use crate::{registry, rollout, supervisor};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep what was used last, up to so much, such as `20G` (K, M, G and T count by 1024)
    #[arg(long, value_name = "SIZE", default_value = "20G", value_parser = parse_size)]
    keep: u64,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is not a size: expected a number and K, M, G or T, such as `20G`");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(expected()),
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let store = context.store()?;
    let mut spare = registry::collect(store.root())?;
    spare.extend(supervisor::roots(&store).map_err(rollout::TargetError::from)?);
    let report = store.gc(arguments.keep, &spare)?;
    match context.json {
        true => terminal::print_json(&report),
        false => terminal::print(format!(
            "removed {} results, {} compiled packages, {} blobs and {} trees: {} freed, {} kept\n",
            report.results,
            report.compiled,
            report.blobs,
            report.trees,
            HumanBytes(report.freed),
            HumanBytes(report.kept)
        )),
    }
    Ok(())
}

/// `skep fsck`.
pub(super) fn fsck(context: &Context) -> Result<(), Failure> {
    let report = context.store()?.fsck()?;
    if context.json {
        terminal::print_json(&report);
    } else {
        for path in &report.damaged {
            terminal::print(format!("damaged: {}\n", path.display()));
        }
        for path in &report.foreign {
            terminal::print(format!("foreign: {}\n", path.display()));
        }
        terminal::print(format!(
            "read {} files, {}\n",
            report.blobs,
            HumanBytes(report.bytes)
        ));
    }
    match report.is_sound() {
        true => Ok(()),
        false => Err(Failure::new(
            Kind::Environment,
            format!(
                "the store was damaged: {} files, {} results, {} compiled packages and {} trees are forgotten, and will be made again",
                report.damaged.len(),
                report.results,
                report.compiled,
                report.trees
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("20G"), Ok(20 << 30));
        assert_eq!(parse_size("7"), Ok(7));
        for text in ["", "G", "1X", "-1", "99999999999T", "1.5G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
