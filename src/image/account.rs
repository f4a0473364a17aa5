//! Who an image's program runs as: `user`, `uid`, and either with `:group` or `:gid`, looked up in the image's own
//! `/etc/passwd` and `/etc/group`.

/// A user of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's home directory; `/` if the image does not know the user.
    pub home: String,
}

/// Numbers of users and groups end here: engines refuse greater ones.
const MAX_ID: u32 = i32::MAX as u32;

/// The account that `wanted` names, where `passwd` and `group` are the texts of the two files: empty if the image has
/// none. The error is for a person.
pub fn resolve(passwd: &str, group: &str, wanted: &str) -> Result<Account, String> {
    let (user, group_wanted) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.len() >= 6 && (fields[0] == user || fields[2] == user));
    let uid = entry
        .as_ref()
        .and_then(|fields| number(fields[2]))
        .or_else(|| number(user));
    let uid = uid.ok_or_else(|| format!("the image's /etc/passwd has no user `{user}`"))?;
    let gid = match group_wanted.filter(|group| !group.is_empty()) {
        Some(wanted) => match number(wanted) {
            Some(gid) => gid,
            None => of_group(group, wanted)?,
        },
        None => entry.as_ref().and_then(|fields| number(fields[3])).unwrap_or(0),
    };
    let home = entry.map_or("/", |fields| fields[5]).to_owned();
    Ok(Account { uid, gid, home })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= MAX_ID)
}

fn of_group(groups: &str, name: &str) -> Result<u32, String> {
    let mut entries = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.len() >= 3 && fields[0] == name);
    let gid = entry.and_then(|fields| number(fields[2]));
    gid.ok_or_else(|| format!("the image's /etc/group has no group `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:7:8:app:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:app\n";

    #[test]
    fn names_are_looked_up_and_numbers_need_no_file() {
        let of =
            |wanted| resolve(PASSWD, GROUP, wanted).map(|account| (account.uid, account.gid, account.home));
        assert_eq!(of("app"), Ok((7, 8, "/srv".to_owned())));
        assert_eq!(of("7"), Ok((7, 8, "/srv".to_owned())));
        assert_eq!(of("app:staff"), Ok((7, 50, "/srv".to_owned())));
        assert_eq!(of("65532:9"), Ok((65532, 9, "/".to_owned())));
        let none = resolve("", "", "65532").map(|account| account.uid);
        assert_eq!(none, Ok(65532));
    }

    #[test]
    fn what_the_image_does_not_know_is_named() {
        let error = |wanted| resolve(PASSWD, GROUP, wanted).unwrap_err();
        assert_eq!(error("web"), "the image's /etc/passwd has no user `web`");
        assert_eq!(error("app:web"), "the image's /etc/group has no group `web`");
        assert_eq!(
            error("4294967295"),
            "the image's /etc/passwd has no user `4294967295`"
        );
    }
}
