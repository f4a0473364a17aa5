//! The order of Debian's version numbers (Debian policy 5.6.12, `deb-version(7)`).

use std::cmp::Ordering;

/// Compares `[epoch:]upstream[-revision]`.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    compare_number(epoch_a, epoch_b)
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

/// Runs of anything but digits and runs of digits, in turns.
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = take(a, |byte| !byte.is_ascii_digit());
        let (text_b, rest_b) = take(b, |byte| !byte.is_ascii_digit());
        let (number_a, rest_a) = take(rest_a, |byte| byte.is_ascii_digit());
        let (number_b, rest_b) = take(rest_b, |byte| byte.is_ascii_digit());
        let order = compare_text(text_a, text_b).then_with(|| compare_number(number_a, number_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn take(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !belongs(byte)).unwrap_or(text.len());
    // Only digits end a run of text and only other characters a run of digits: never inside a character.
    text.split_at(end)
}

/// `~` sorts before the end, the end before letters, letters before everything else.
fn compare_text(a: &str, b: &str) -> Ordering {
    let weight = |byte: Option<u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    };
    let (mut a, mut b) = (a.bytes(), b.bytes());
    loop {
        let (next_a, next_b) = (a.next(), b.next());
        match weight(next_a).cmp(&weight(next_b)) {
            Ordering::Equal if next_a.is_none() => return Ordering::Equal,
            Ordering::Equal => {}
            order => return order,
        }
    }
}

/// Digits of any length; none are zero.
fn compare_number(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `dpkg --compare-versions` says.
    #[test]
    fn known_orders() {
        let ascending = [
            ["1.0~~", "1.0~~a"],
            ["1.0~~a", "1.0~"],
            ["1.0~rc1", "1.0"],
            ["1.0", "1.0a"],
            ["1.0a", "1.0+b"],
            ["1.0-1", "1.0-1.1"],
            ["1.0-1", "1.0-1+deb12u1"],
            ["1.0-1~bpo1", "1.0-1"],
            ["1.9", "1.10"],
            ["2024a-0", "2024b-0"],
            ["9.9", "1:0.1"],
            ["1:1.2.3", "1:1.2.4"],
            ["2.36-9", "2.36-9+deb12u10"],
            ["2.36-9+deb12u9", "2.36-9+deb12u10"],
            ["1.0-0", "1.0-0.1"],
            ["99999999999999999999", "100000000000000000000"],
        ];
        for [less, more] in ascending {
            assert_eq!(compare(less, more), Ordering::Less, "{less} < {more}");
            assert_eq!(compare(more, less), Ordering::Greater, "{more} > {less}");
        }
        for (a, b) in [("1.0", "1.0-0"), ("0:1.0", "1.0"), ("1.01", "1.1"), ("1.", "1.0")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} = {b}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(
            a in "([0-9]:)?[0-9a-z.+~é-]{0,8}",
            b in "([0-9]:)?[0-9a-z.+~é-]{0,8}",
            c in "([0-9]:)?[0-9a-z.+~é-]{0,8}",
        ) {
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
