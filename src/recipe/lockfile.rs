//! Primitives that read the project's lock files, and its secrets.

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::Value;
use starlark::values::list_or_tuple::UnpackListOrTuple;
use starlark::values::none::NoneOr;
use starlark::values::structs::AllocStruct;

use super::context::{Context, Purpose};
use super::decode;
use super::value::SecretValue;
use crate::digest::Fingerprint;
use crate::lock::{DebianLock, DebianPackage, DebianRequest, LockRequest};
use crate::plan::Secret;
use crate::platform::Arch;
use crate::source;
use crate::tree::TreePath;

/// A fingerprint of less could be reversed by trying all secrets.
const MIN_SECRET: usize = 16;

/// Whether a file could not be read because there is none.
fn is_missing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(source::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound
    )
}

#[starlark_module]
pub(super) fn primitives(builder: &mut GlobalsBuilder) {
    /// The text of a file: of the project by its path from the root, or `@skep//…` of the library. At most
    /// 64 MiB. `default` stands for a file that is not there; without it, that is an error.
    fn read_text<'v>(
        path: &str,
        #[starlark(require = named, default = NoneOr::None)] default: NoneOr<String>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<String> {
        match (Context::of(eval).read_text(path), default) {
            (Err(error), NoneOr::Other(default)) if is_missing(&error) => Ok(default),
            (read, _) => read,
        }
    }

    /// A JSON file of the project as dictionaries, lists, strings and numbers.
    fn read_json<'v>(path: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<Value<'v>> {
        let text = Context::of(eval).read_text(path)?;
        let value =
            serde_json::from_str(&text).map_err(|error| anyhow::anyhow!("`{path}` is not JSON: {error}"))?;
        Ok(decode::json(eval.heap(), value))
    }

    /// The packages that the lock file `file` pins, as structs with `name`, `version`, `architecture`, `path`
    /// (below a mirror's root), `sha256` and `size`. The lock must answer exactly what is asked for here;
    /// `skep lock` writes it.
    fn debian_lock<'v>(
        file: &str,
        #[starlark(require = named)] suite: &str,
        #[starlark(require = named)] arch: &str,
        #[starlark(require = named)] packages: UnpackListOrTuple<String>,
        #[starlark(require = named, default = UnpackListOrTuple::default())] exclude: UnpackListOrTuple<
            String,
        >,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<Value<'v>> {
        let context = Context::of(eval);
        let request = DebianRequest {
            suite: suite.to_owned(),
            arch: parse_arch(arch)?,
            packages: sorted(packages.items),
            exclude: sorted(exclude.items),
        };
        let packages = match file.strip_prefix(super::library::PREFIX) {
            Some(_) => read_lock(context, file, &request)?,
            None => {
                note_lock(context, file.parse()?, &request)?;
                match context.purpose {
                    Purpose::Lock => Vec::new(),
                    Purpose::Build => read_lock(context, file, &request)?,
                }
            }
        };
        let packages: Vec<Value<'v>> = packages
            .iter()
            .map(|package| alloc_package(eval, package))
            .collect();
        Ok(eval.heap().alloc(packages))
    }

    /// A file of the project whose content is a secret of at least 128 random bits. Actions that use it have
    /// its fingerprint in their key, and never the content.
    fn secret<'v>(file: &str, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<SecretValue> {
        let file: TreePath = file.parse()?;
        let content = Context::of(eval).read(&file)?;
        anyhow::ensure!(
            content.len() >= MIN_SECRET,
            "the secret `{file}` has {} bytes; with fewer than {MIN_SECRET}, its fingerprint would give it away",
            content.len()
        );
        let fingerprint = Fingerprint::of("skep 1 secret version", &content);
        Ok(SecretValue(Secret { file, fingerprint }))
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

pub(super) fn parse_arch(text: &str) -> anyhow::Result<Arch> {
    let found = Arch::ALL.into_iter().find(|arch| arch.as_str() == text);
    found.ok_or_else(|| anyhow::anyhow!("`{text}` is not an architecture: expected `amd64` or `arm64`"))
}

/// Takes note of a lock for `skep lock`. One file answers one request.
fn note_lock(context: &Context<'_>, file: TreePath, request: &DebianRequest) -> anyhow::Result<()> {
    let mut locks = context.locks.borrow_mut();
    match locks.iter().find(|lock| lock.file == file) {
        Some(lock) if lock.request == *request => Ok(()),
        Some(_) => anyhow::bail!("two different requests share the lock file `{file}`; give each its own"),
        None => {
            let request = request.clone();
            locks.push(LockRequest { file, request });
            Ok(())
        }
    }
}

fn read_lock(
    context: &Context<'_>,
    file: &str,
    request: &DebianRequest,
) -> anyhow::Result<Vec<DebianPackage>> {
    let text = context
        .read_text(file)
        .map_err(|error| anyhow::anyhow!("{error}; `skep lock` writes it"))?;
    let lock = DebianLock::from_toml(&text)
        .map_err(|error| anyhow::anyhow!("`{file}` is not a lock file: {}", error.to_string().trim_end()))?;
    anyhow::ensure!(
        lock.request == *request,
        "the lock file `{file}` answers another request than this one; run `skep lock`"
    );
    Ok(lock.packages)
}

fn alloc_package<'v>(eval: &Evaluator<'v, '_, '_>, package: &DebianPackage) -> Value<'v> {
    let heap = eval.heap();
    heap.alloc(AllocStruct([
        ("name", heap.alloc(package.name.as_str())),
        ("version", heap.alloc(package.version.as_str())),
        ("architecture", heap.alloc(package.architecture.as_str())),
        ("path", heap.alloc(package.path.as_str())),
        ("sha256", heap.alloc(package.sha256.as_str())),
        ("size", heap.alloc(package.size)),
    ]))
}
