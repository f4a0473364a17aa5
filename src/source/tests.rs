use std::process::Command;

use super::*;

struct Project {
    directory: tempfile::TempDir,
    store: Store,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Project {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let project = Project { directory, store };
        files
            .iter()
            .for_each(|(path, content)| project.write(path, content));
        project
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let status = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.invalid"])
            .args(arguments)
            .current_dir(self.root())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }

    fn source(include: &[&str], exclude: &[&str]) -> Source {
        Source {
            root: TreePath::root(),
            include: include.iter().map(ToString::to_string).collect(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
        }
    }

    fn work_tree(&self) -> WorkTree {
        WorkTree::list(&self.root(), &self.store).unwrap()
    }

    fn files(&self, include: &[&str], exclude: &[&str]) -> Vec<String> {
        let selected = self
            .work_tree()
            .select(&Project::source(include, exclude))
            .unwrap();
        selected.keys().map(ToString::to_string).collect()
    }

    fn digest(&self) -> Digest {
        let tree = self.work_tree();
        let digest = tree.state(&self.store).unwrap();
        tree.remember(&self.store).unwrap();
        digest
    }
}

const FILES: &[(&str, &str)] = &[
    (".gitignore", "ignored\n*.log\n"),
    ("a.go", "a"),
    ("sub/b.go", "b"),
    ("sub/.gitignore", "!kept.log\n"),
    ("sub/kept.log", "k"),
    ("ignored/c.go", "c"),
    ("d.log", "d"),
];

#[test]
fn with_and_without_git_the_same_files_count() {
    let project = Project::new(FILES);
    let expected = [".gitignore", "a.go", "sub/.gitignore", "sub/b.go", "sub/kept.log"];
    assert_eq!(project.files(&["**"], &[]), expected);
    project.git(&["init", "-q"]);
    assert_eq!(project.files(&["**"], &[]), expected);
    assert_eq!(project.work_tree().untracked().len(), 5);
    project.git(&["add", "-A", "-f", "."]);
    project.git(&["rm", "-q", "--cached", "sub/kept.log"]);
    assert!(
        project.files(&["**"], &[]).contains(&"ignored/c.go".to_owned()),
        "it is tracked now"
    );
    fs::remove_file(project.root().join("d.log")).unwrap();
    assert!(
        !project.files(&["**"], &[]).contains(&"d.log".to_owned()),
        "it is gone"
    );
    let untracked: Vec<_> = project
        .work_tree()
        .untracked()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(untracked, ["sub/kept.log"]);
}

#[test]
fn patterns_select_and_must_match() {
    let project = Project::new(FILES);
    assert_eq!(project.files(&["*.go"], &[]), ["a.go"]);
    assert_eq!(project.files(&["**/*.go"], &["sub/**"]), ["a.go"]);
    let message = |include: &[&str]| {
        let selected = project.work_tree().select(&Project::source(include, &[]));
        selected.unwrap_err().to_string()
    };
    insta::assert_snapshot!(message(&["a.go", "*.rs"]), @"no file of the project matches `*.rs` below `.`; untracked files that an ignore file excludes do not count");
    insta::assert_snapshot!(message(&["a[.go"]), @"`a[.go` is not a glob pattern: unclosed character class; missing ']'");
}

#[test]
fn the_tree_is_the_content_and_nothing_else() {
    let one = Project::new(FILES);
    let two = Project::new(FILES);
    two.git(&["init", "-q"]);
    assert_eq!(one.digest(), two.digest());
    let before = one.digest();
    one.write("a.go", "b");
    assert_ne!(one.digest(), before, "the same size, and changed within a second");
    one.write("a.go", "a");
    assert_eq!(one.digest(), before);
}

#[test]
fn unchanged_files_are_not_read_again() {
    let project = Project::new(&[("a", "one")]);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let before = project.digest();
    let note = project.store.note("stat", &project.root()).unwrap();
    assert_eq!(String::from_utf8(note).unwrap().lines().count(), 1);
    assert_eq!(project.digest(), before);
}

#[test]
fn links_that_leave_the_source_are_refused() {
    let project = Project::new(&[("sub/a", "")]);
    std::os::unix::fs::symlink("../sub/a", project.root().join("sub/link")).unwrap();
    project.digest();
    std::os::unix::fs::symlink("/etc/passwd", project.root().join("out")).unwrap();
    let error = project.work_tree().state(&project.store).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"`out` is a symlink to `/etc/passwd`, which leaves the source");
}

#[test]
fn links_are_followed_in_the_whole_source() {
    let project = Project::new(&[("sub/a", "")]);
    for (at, target) in [("here", "."), ("fine", "sub/../sub/a")] {
        std::os::unix::fs::symlink(target, project.root().join(at)).unwrap();
    }
    project.digest();
    std::os::unix::fs::symlink("here/..", project.root().join("up")).unwrap();
    let error = project.work_tree().state(&project.store).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"symlink `up` -> `here/..` leaves the tree");
}

#[test]
fn a_revision_is_a_commit_and_whether_it_is_all() {
    let project = Project::new(FILES);
    assert_eq!(revision(&project.root()).unwrap(), None);
    project.git(&["init", "-q"]);
    assert_eq!(revision(&project.root()).unwrap(), None);
    project.git(&["add", "-A"]);
    project.git(&["commit", "-qm", "first"]);
    let clean = revision(&project.root()).unwrap().unwrap();
    assert!(clean.commit.len() >= 40 && !clean.dirty);
    project.write("new", "");
    let dirty = revision(&project.root()).unwrap().unwrap();
    assert_eq!((dirty.commit == clean.commit, dirty.dirty), (true, true));
}
