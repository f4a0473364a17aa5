//! The client before registries that want to know who it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::*;
use super::*;
use crate::digest::Digest;

/// A registry that wants a token, which the address `/token` gives to whoever asks: `t0`, `t1` and so on.
/// It takes those that `is_good` says.
async fn with_tokens(is_good: impl Fn(usize, &Seen) -> bool + Send + Sync + 'static) -> Faulty {
    let given = AtomicUsize::new(0);
    Faulty::start(move |seen| {
        if seen.line.starts_with("GET /token") || seen.line.starts_with("POST /token") {
            let token = given.fetch_add(1, Ordering::SeqCst);
            return Act::Answer(200, Vec::new(), format!(r#"{{"token":"t{token}"}}"#));
        }
        let number = seen
            .authorization
            .as_ref()
            .and_then(|value| value.strip_prefix("Bearer t"));
        match number.map(|number| number.parse().unwrap()) {
            Some(number) if is_good(number, seen) => Act::Pass,
            _ => {
                let challenge = r#"www-authenticate: Bearer realm="/token",service="s p",scope="*""#;
                Act::Answer(401, vec![challenge.to_owned()], String::new())
            }
        }
    })
    .await
}

#[tokio::test]
async fn one_token_serves_a_scope() {
    let faulty = with_tokens(|_, _| true).await;
    let (_directory, ours) = store();
    let (client, to) = (Arc::new(client()), faulty.repository());
    let digests: Vec<Digest> = (0..8).map(|n| ours.put(&[n]).unwrap()).collect();
    let tasks = digests.iter().map(|digest| {
        let (client, to, ours, digest) = (Arc::clone(&client), to.clone(), Arc::clone(&ours), *digest);
        tokio::spawn(async move {
            assert!(!client.has_blob(&to, &digest, &never()).await.unwrap());
            upload(&client, &to, &ours, &digest).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(
        faulty.count("/token?service=s+p&scope=repository%3Aowner%2Fapi%3Apull%2Cpush"),
        1
    );
    assert_eq!(faulty.count("/token"), 2, "one to look, one to write");
    let from: Repository = format!("{}/other/x", faulty.host).parse().unwrap();
    client
        .mount(&to, &digests[0], Some(&from), &never())
        .await
        .unwrap();
    assert_eq!(faulty.count("scope=repository%3Aother%2Fx%3Apull"), 1);
    assert!(
        faulty
            .seen()
            .iter()
            .all(|seen| seen.line.contains("/token") || seen.authorization.is_some())
    );
}

#[tokio::test]
async fn a_token_that_expires_is_renewed_once() {
    // The second token for writing (the third of all) is wanted from the first PUT of a layer on.
    let faulty = with_tokens(|number, seen| !seen.line.starts_with("PUT ") || number >= 1).await;
    let (_directory, ours) = store();
    let (client, to) = (client(), faulty.repository());
    let digest = ours.put(&noise(100_000, 2)).unwrap();
    upload(&client, &to, &ours, &digest).await.unwrap();
    assert_eq!(faulty.count("/token"), 2);
    assert_eq!(faulty.count("PUT "), 2);
    assert!(client.has_blob(&to, &digest, &never()).await.unwrap());
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_a_missing_permission() {
    let faulty = with_tokens(|_, _| false).await;
    let (_directory, ours) = store();
    let (client, to) = (client(), faulty.repository());
    let digest = ours.put(b"x").unwrap();
    let refused = upload(&client, &to, &ours, &digest).await.unwrap_err();
    insta::assert_snapshot!(refused, @"`HOST/owner/api`: cannot upload the blob `sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`: access is refused (401); there are no credentials for `HOST`: `docker login HOST`, or set DOCKER_CONFIG");
    assert_eq!((faulty.count("POST /v2"), faulty.count("/token")), (2, 2));
}

/// What Gitea says to a token that may read and not write.
#[tokio::test]
async fn a_basic_challenge_to_a_token_is_a_missing_permission() {
    let faulty = Faulty::start(|seen| match seen.line.as_str() {
        "GET /v2/" => {
            let challenge = r#"www-authenticate: Bearer realm="/token",service="x""#;
            Act::Answer(401, vec![challenge.to_owned()], String::new())
        }
        line if line.starts_with("GET /token") => Act::Answer(200, Vec::new(), r#"{"token":"t"}"#.to_owned()),
        _ => {
            let challenge = r#"www-authenticate: Basic realm="Package API""#;
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"reqPackageAccess"}]}"#;
            Act::Answer(401, vec![challenge.to_owned()], body.to_owned())
        }
    })
    .await;
    let config = format!(
        r#"{{"auths":{{"{}":{{"auth":"dGVhbTpodW50ZXIy"}}}}}}"#,
        faulty.host
    );
    let (_config, client) = client_with(&config);
    let (_directory, ours) = store();
    let digest = ours.put(b"x").unwrap();
    let refused = upload(&client, &faulty.repository(), &ours, &digest)
        .await
        .unwrap_err();
    insta::assert_snapshot!(refused, @"`HOST/owner/api`: cannot upload the blob `sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`: access is refused (401, UNAUTHORIZED: reqPackageAccess); the credentials for `HOST` are wrong or not enough: `docker login HOST` as somebody who may do this; a token of Gitea needs the scope `write:package`");
    assert_eq!((faulty.count("POST "), faulty.count("/token")), (1, 1));
    let to_token: Vec<_> = faulty
        .seen()
        .into_iter()
        .filter(|seen| seen.line.contains("/token"))
        .collect();
    assert_eq!(
        to_token[0].authorization.as_deref(),
        Some("Basic dGVhbTpodW50ZXIy")
    );
}

#[tokio::test]
async fn users_and_passwords_are_sent_where_they_are_asked_for() {
    let faulty = Faulty::start(|seen| match seen.authorization.as_deref() {
        Some("Basic dGVhbTpodW50ZXIy") => Act::Pass,
        _ => Act::Answer(
            401,
            vec!["www-authenticate: Basic realm=x".to_owned()],
            String::new(),
        ),
    })
    .await;
    let (_directory, ours) = store();
    let digest = ours.put(b"x").unwrap();
    let to = faulty.repository();
    let config = |auth: &str| {
        format!(
            r#"{{"auths":{{"https://{}/v2/":{{"auth":"{auth}"}}}}}}"#,
            faulty.host
        )
    };
    let (_config, good) = client_with(&config("dGVhbTpodW50ZXIy"));
    upload(&good, &to, &ours, &digest).await.unwrap();
    let (_config, bad) = client_with(&config("dGVhbTp3cm9uZw=="));
    let refused = upload(&bad, &to, &ours, &digest).await.unwrap_err();
    insta::assert_snapshot!(refused, @"`HOST/owner/api`: cannot upload the blob `sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`: access is refused (401); the credentials for `HOST` are wrong or not enough: `docker login HOST` as somebody who may do this; a token of Gitea needs the scope `write:package`");
    let refused = upload(&client(), &to, &ours, &digest).await.unwrap_err();
    insta::assert_snapshot!(refused, @"`HOST/owner/api`: cannot upload the blob `sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`: access is refused (401); there are no credentials for `HOST`: `docker login HOST`, or set DOCKER_CONFIG");
    let (_config, malformed) = client_with("{ not json");
    let refused = upload(&malformed, &to, &ours, &digest).await.unwrap_err();
    assert!(
        refused.ends_with("config.json`: it is not the json that docker writes"),
        "{refused}"
    );
    let (_config, undecodable) = client_with(&config("%%%"));
    let refused = upload(&undecodable, &to, &ours, &digest).await.unwrap_err();
    assert!(
        refused.ends_with("is malformed") && !refused.contains('%'),
        "{refused}"
    );
}

#[tokio::test]
async fn credential_helpers_are_asked() {
    let faulty = Faulty::start(|seen| match seen.authorization.as_deref() {
        Some("Bearer from-refresh") => Act::Pass,
        _ if seen.line == "POST /token" => Act::Answer(
            200,
            Vec::new(),
            r#"{"access_token":"from-refresh","expires_in":3600}"#.to_owned(),
        ),
        _ => {
            let challenge = r#"www-authenticate: Bearer realm="/token",service="x""#;
            Act::Answer(401, vec![challenge.to_owned()], String::new())
        }
    })
    .await;
    let config = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"refresh-me"}}}}}}"#,
        faulty.host
    );
    let (_config, client) = client_with(&config);
    let digest = Digest::of(b"absent");
    assert!(
        !client
            .has_blob(&faulty.repository(), &digest, &never())
            .await
            .unwrap()
    );
    let config = format!(
        r#"{{"credHelpers":{{"{}":"skep-test-no-such-helper"}}}}"#,
        faulty.host
    );
    let (_config, client) = client_with(&config);
    let failed = client
        .has_blob(&faulty.repository(), &digest, &never())
        .await
        .unwrap_err();
    let failed = shown(&faulty.repository(), &failed);
    assert!(
        failed.ends_with("config.json`: its credential helper cannot be run"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_token_service_that_refuses_says_so() {
    let faulty = Faulty::start(|seen| match seen.line.starts_with("GET /token") {
        true => error(403, "DENIED"),
        false => {
            let challenge = r#"www-authenticate: Bearer realm="/token""#;
            Act::Answer(401, vec![challenge.to_owned()], String::new())
        }
    })
    .await;
    let to = faulty.repository();
    let failed = client()
        .has_blob(&to, &Digest::of(b"x"), &never())
        .await
        .unwrap_err();
    insta::assert_snapshot!(shown(&to, &failed).replace(&Digest::of(b"x").oci(), "DIGEST"), @"`HOST/owner/api`: cannot look up the blob `DIGEST`: access is refused (403, DENIED: as the test says); there are no credentials for `HOST`: `docker login HOST`, or set DOCKER_CONFIG");
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let other = Faulty::start(|_| Act::Answer(201, Vec::new(), String::new())).await;
    let away = format!("http://{}/elsewhere?_state=a%3Db", other.host);
    let faulty = Faulty::start(move |seen| match seen.line.starts_with("POST ") {
        true => Act::Answer(202, vec![format!("location: {away}")], String::new()),
        false if seen.authorization.is_none() => Act::Answer(
            401,
            vec!["www-authenticate: Basic realm=x".to_owned()],
            String::new(),
        ),
        false => Act::Answer(307, vec![format!("location: {away}")], String::new()),
    })
    .await;
    let config = format!(
        r#"{{"auths":{{"{}":{{"auth":"dGVhbTpodW50ZXIy"}}}}}}"#,
        faulty.host
    );
    let (_config, client) = client_with(&config);
    let (_directory, ours) = store();
    let digest = ours.put(b"x").unwrap();
    upload(&client, &faulty.repository(), &ours, &digest)
        .await
        .unwrap();
    assert!(
        client
            .has_blob(&faulty.repository(), &digest, &never())
            .await
            .unwrap()
    );
    let seen = other.seen();
    let put = format!(
        "PUT /elsewhere?_state=a%3Db&digest={}",
        digest.oci().replace(':', "%3A")
    );
    assert_eq!(seen[0].line, put);
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.authorization.is_none()));
    assert!(faulty.seen().iter().all(|seen| seen.authorization.is_some()));
}

#[tokio::test]
async fn a_token_that_expires_between_chunks_costs_a_new_upload() {
    let faulty =
        with_tokens(|number, seen| number >= 1 || seen.range.as_deref() != Some("1048576-2097151")).await;
    let (_directory, ours) = store();
    let client = client();
    let digest = ours.put(&noise(2_500_000, 9)).unwrap();
    let to = faulty.repository();
    let host = client.host(&to, &never()).await.ok().unwrap();
    host.lanes.most.store(1 << 20, Ordering::SeqCst);
    upload(&client, &to, &ours, &digest).await.unwrap();
    assert_eq!(faulty.count("PATCH "), 5);
    assert_eq!(
        faulty.count("/token"),
        3,
        "two to write, one to look what became of it"
    );
}

#[tokio::test]
async fn another_host_does_not_say_where_credentials_go() {
    let other = Faulty::start(|seen| {
        let realm = format!(r#"www-authenticate: Bearer realm="http://{}/token""#, seen.host);
        Act::Answer(401, vec![realm], String::new())
    })
    .await;
    let away = format!("location: http://{}/elsewhere", other.host);
    let faulty = Faulty::start(move |seen| match seen.authorization.is_some() {
        true => Act::Answer(307, vec![away.clone()], String::new()),
        false => Act::Answer(
            401,
            vec!["www-authenticate: Basic realm=x".to_owned()],
            String::new(),
        ),
    })
    .await;
    let config = format!(
        r#"{{"auths":{{"{}":{{"auth":"dGVhbTpodW50ZXIy"}}}}}}"#,
        faulty.host
    );
    let (_config, client) = client_with(&config);
    let to = faulty.repository();
    for _ in 0..2 {
        let refused = client.has_blob(&to, &Digest::of(b"x"), &never()).await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("access is refused (401")
        );
    }
    let lines: Vec<String> = other.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, ["HEAD /elsewhere"; 2]);
    assert!(other.seen().iter().all(|seen| seen.authorization.is_none()));
}

/// As a registry does that keeps its blobs elsewhere.
#[tokio::test]
async fn with_a_fresh_token_it_goes_where_it_is_led() {
    let other = Faulty::start(|_| Act::Answer(200, Vec::new(), String::new())).await;
    let away = format!("location: http://{}/elsewhere", other.host);
    let faulty = Faulty::start(move |seen| match seen.authorization.as_deref() {
        _ if seen.line.starts_with("GET /token") => {
            Act::Answer(200, Vec::new(), format!(r#"{{"token":"t{}"}}"#, seen.before))
        }
        // The first token is not good any more.
        Some(token) if token != "Bearer t1" => Act::Answer(307, vec![away.clone()], String::new()),
        _ => {
            let challenge = r#"www-authenticate: Bearer realm="/token""#;
            Act::Answer(401, vec![challenge.to_owned()], String::new())
        }
    })
    .await;
    let (client, to) = (client(), faulty.repository());
    assert!(client.has_blob(&to, &Digest::of(b"x"), &never()).await.unwrap());
    assert_eq!(faulty.count("/token"), 2);
    assert!(other.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_quota_is_not_taken_for_a_missing_permission() {
    let faulty = Faulty::start(|seen| match seen.line.starts_with("POST ") {
        true => {
            let message = "maximum allowed package storage quota exceeded";
            let body = format!(r#"{{"errors":[{{"code":"","message":"{message}"}}]}}"#);
            Act::Answer(403, Vec::new(), body)
        }
        false => Act::Pass,
    })
    .await;
    let (_directory, ours) = store();
    let digest = ours.put(b"x").unwrap();
    let refused = upload(&client(), &faulty.repository(), &ours, &digest).await;
    insta::assert_snapshot!(refused.unwrap_err().replace(&digest.oci(), "DIGEST"), @"`HOST/owner/api`: cannot upload the blob `DIGEST`: access is refused (403: maximum allowed package storage quota exceeded); make room at `HOST`, or have the limit raised");
}
