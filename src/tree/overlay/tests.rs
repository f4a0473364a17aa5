use super::*;
use crate::tree::testing::Memory;

fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

/// A layer of `entries`: `dir/`, `link -> target`, or a file whose content is its path and the layer's `mark`.
fn sheet(dirs: &Memory, mark: &str, entries: &[&str]) -> Sheet {
    let mut nodes = Vec::new();
    for entry in entries {
        nodes.push(match (entry.strip_suffix('/'), entry.split_once(" -> ")) {
            (Some(at), _) => (path(at), Node::Directory(Digest::of(b""))),
            (_, Some((at, target))) => (path(at), Node::Symlink(target.to_owned())),
            _ => {
                let digest = Digest::of(format!("{entry} {mark}").as_bytes());
                let executable = false;
                (path(entry), Node::File { digest, executable })
            }
        });
    }
    Sheet {
        root: Some(ops::collect(dirs, nodes).unwrap()),
        ..Sheet::default()
    }
}

fn with(mut sheet: Sheet, at: &str, change: impl Fn(&mut Attributes)) -> Sheet {
    change(sheet.metadata.0.entry(path(at)).or_default());
    sheet
}

fn list(dirs: &Memory, root: &Digest) -> String {
    let mut paths = Vec::new();
    ops::walk(dirs, root, &mut |path, node| {
        paths.push(match node {
            Node::Symlink(target) => format!("{path} -> {target}"),
            _ => path.to_string(),
        });
    })
    .unwrap();
    paths.join(" ")
}

fn metadata(metadata: &Metadata) -> String {
    String::from_utf8(metadata.encode()).unwrap()
}

#[test]
fn whiteouts_take_away_what_lower_layers_have_and_nothing_else() {
    let dirs = Memory::default();
    let sheets = vec![
        sheet(&dirs, "1", &["a/x", "a/y", "b/x", "b/deep/z", "c", "d/x"]),
        sheet(
            &dirs,
            "2",
            &[
                "a/.wh.x",
                "a/new",
                ".wh.c",
                "b/.wh..wh..opq",
                "b/own",
                ".wh.absent",
            ],
        ),
        sheet(&dirs, "3", &["c/now-a-directory", "d"]),
    ];
    let (root, _) = overlay(&dirs, sheets).unwrap();
    assert_eq!(list(&dirs, &root), "a a/new a/y b b/own c c/now-a-directory d");
    // In its own layer, a whiteout hides nothing.
    let sheets = vec![sheet(&dirs, "1", &["a/.wh.x", "a/x", "b/.wh..wh..opq", "b/x"])];
    let (root, _) = overlay(&dirs, sheets).unwrap();
    assert_eq!(list(&dirs, &root), "a a/x b b/x");
}

#[test]
fn the_upper_layer_wins_and_the_same_trees_are_kept_as_they_are() {
    let dirs = Memory::default();
    let (one, two) = (sheet(&dirs, "1", &["a/x", "b/y"]), sheet(&dirs, "2", &["a/x"]));
    let (root, _) = overlay(&dirs, vec![one.clone(), two.clone()]).unwrap();
    let found = |root: &Digest, at: &str| ops::lookup(&dirs, root, &path(at)).unwrap();
    assert_eq!(found(&root, "a/x"), found(&two.root.unwrap(), "a/x"));
    assert_eq!(found(&root, "b"), found(&one.root.unwrap(), "b"));
    let (alone, _) = overlay(&dirs, vec![one.clone(), Sheet::default()]).unwrap();
    assert_eq!(Some(alone), one.root);
}

#[test]
fn attributes_go_with_what_they_describe() {
    let dirs = Memory::default();
    let mode = |mode| move |attributes: &mut Attributes| attributes.mode = Some(mode);
    let mut lower = sheet(&dirs, "1", &["tmp/", "kept/x", "gone/x", "said/x", "file"]);
    for at in ["tmp", "kept", "gone", "gone/x", "said", "file"] {
        lower = with(lower, at, mode(0o700));
    }
    let mut upper = sheet(&dirs, "2", &["tmp/x", "kept/y", ".wh.gone", "said/y", "file"]);
    upper.implied = [path("tmp"), path("kept")].into();
    let (_, found) = overlay(&dirs, vec![lower, with(upper, ".wh.gone", mode(0o600))]).unwrap();
    insta::assert_snapshot!(metadata(&found), @r#"{"kept":{"mode":448},"tmp":{"mode":448}}"#);
}

#[test]
fn there_is_one_form_whatever_made_the_layers() {
    let dirs = Memory::default();
    let plain = sheet(&dirs, "1", &["d/", "f", "usr/lib/l -> ../etc/x"]);
    let said = with(plain, "d", |a| (a.mode, a.uid) = (Some(0o755), Some(0)));
    let said = with(said, "f", |a| a.mode = Some(0o644));
    // The package had this in /lib.
    let said = with(said, "usr/lib/l", |a| {
        (a.mode, a.target) = (Some(0o777), Some("/etc/x".to_owned()))
    });
    let (root, found) = overlay(&dirs, vec![with(said, "absent", |a| a.uid = Some(1))]).unwrap();
    insta::assert_snapshot!(metadata(&found), @r#"{"usr/lib/l":{"target":"/etc/x"}}"#);
    assert_eq!(list(&dirs, &root), "d f usr usr/lib usr/lib/l -> ../../etc/x");
}

#[test]
fn files_that_share_an_inode_go_on_without_one_that_is_gone() {
    let dirs = Memory::default();
    let link = |to: &'static str| move |a: &mut Attributes| a.hard_link = Some(path(to));
    let lower = sheet(&dirs, "1", &["a", "b", "c", "d"]);
    let lower = with(with(lower, "a", |a| a.uid = Some(7)), "b", link("a"));
    let lower = with(with(lower, "c", link("b")), "d", link("a"));
    let (_, found) = overlay(&dirs, vec![lower.clone()]).unwrap();
    insta::assert_snapshot!(metadata(&found), @r#"{"a":{"uid":7},"b":{"uid":7,"hard_link":"a"},"c":{"uid":7,"hard_link":"a"},"d":{"uid":7,"hard_link":"a"}}"#);
    let (_, found) = overlay(&dirs, vec![lower, sheet(&dirs, "2", &[".wh.a"])]).unwrap();
    insta::assert_snapshot!(metadata(&found), @r#"{"b":{"uid":7},"c":{"uid":7,"hard_link":"b"},"d":{"uid":7,"hard_link":"b"}}"#);
}

#[test]
fn links_lead_into_the_tree() {
    for (link, target, inside) in [
        ("a", "/", "."),
        ("a/b", "/", ".."),
        ("a/b", "/c/d", "../c/d"),
        ("a/b", "/../c/./d/../e", "../c/e"),
        ("a/b/c", "../../../../x", "../../x"),
    ] {
        assert_eq!(link_inside(&path(link), target), inside, "{link} -> {target}");
    }
}

#[test]
fn a_link_that_leaves_by_a_lower_layer_is_plain() {
    let dirs = Memory::default();
    let sheets = vec![
        sheet(&dirs, "1", &["usr/lib/x", "lib -> usr/lib", "a -> ."]),
        sheet(
            &dirs,
            "2",
            &["share -> lib/../share", "up -> a/../etc", "out -> m/../x"],
        ),
    ];
    let (root, metadata) = overlay(&dirs, sheets).unwrap();
    assert_eq!(
        list(&dirs, &root),
        "a -> . lib -> usr/lib out -> m/../x share -> lib/../share up -> etc usr usr/lib usr/lib/x"
    );
    let original = metadata.0.get(&path("up")).and_then(|known| known.target.clone());
    assert_eq!(original.as_deref(), Some("a/../etc"));
}
