//! `roost token`: a token for tests, signed with a key of one's own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{ArgGroup, Args};
use serde_json::json;

use crate::args::Global;
use crate::output::Output;
use crate::token::{Key, claims};
use crate::{duration, failure};

const NOTES: &str = "\
The daemon is not asked: what counts there is the set of keys that [jwt] in its settings names. --jwks prints one with the \
public half of the key; of a secret, the secret.

The claim role says which groups of WebSockets its bearer may hear and speak to by itself: roost.join, roost.send, for one \
group roost.join.NAME, roost.send.NAME, for those that begin so roost.join.BEGINNING*. What functions do with groups asks for none.

Examples:
  openssl genpkey -algorithm ed25519 -out test.pem
  roost token --key test.pem --jwks > /etc/roost/jwks.json
  roost token --key test.pem --sub ada --claim role=roost.join --ttl 10m
  roost token --secret-file test.secret --sub ada --aud roost";

/// Make a bearer token for tests
#[derive(Debug, Args)]
#[command(after_help = NOTES, group(ArgGroup::new("with").required(true)))]
pub(crate) struct TokenArgs {
    /// Sign with this private key, in PEM: RSA, P-256 or Ed25519
    #[arg(long, value_name = "FILE", group = "with")]
    key: Option<PathBuf>,
    /// Sign with this secret of at least 32 bytes
    #[arg(long, value_name = "FILE", group = "with")]
    secret_file: Option<PathBuf>,
    /// Refuse to sign with anything else: HS256, RS256, ES256 or EdDSA [default: what the key is for]
    #[arg(long, value_name = "ALGORITHM")]
    alg: Option<String>,
    /// The id of the key
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// Whose token it is
    #[arg(long, value_name = "USER")]
    sub: Option<String>,
    /// Who has made it
    #[arg(long, value_name = "ISSUER")]
    iss: Option<String>,
    /// For whom it is
    #[arg(long, value_name = "AUDIENCE")]
    aud: Option<String>,
    /// Another claim, as text or JSON; given again, a list
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// For how long it counts
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    ttl: Duration,
    /// Print the set of keys that verifies its tokens, and no token
    #[arg(long, conflicts_with_all = ["sub", "iss", "aud", "claims"])]
    jwks: bool,
}

pub(crate) fn run(args: &TokenArgs, _: &Global, out: &mut Output) -> Result<()> {
    let key = match (&args.key, &args.secret_file) {
        (Some(path), _) => Key::read(path)?,
        (_, Some(path)) => Key::read_secret(path)?,
        (None, None) => return Err(failure::usage("expected --key or --secret-file")),
    };
    let algorithm = key.algorithm();
    if let Some(asked) = args.alg.as_deref().filter(|asked| !asked.eq_ignore_ascii_case(algorithm)) {
        return Err(failure::usage(format!("this key signs with {algorithm}, not with {asked}")));
    }
    let id = args.kid.as_deref();
    if args.jwks {
        return out.value(&json!({ "keys": [key.to_jwk(id)] }));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut said = claims(&args.claims, now, args.ttl).map_err(failure::usage)?;
    for (name, text) in [("sub", &args.sub), ("iss", &args.iss), ("aud", &args.aud)] {
        if let Some(text) = text {
            said.insert(name.to_owned(), text.as_str().into());
        }
    }
    let token = key.sign(id, &said)?;
    if out.json { out.value(&json!({ "token": token, "claims": said })) } else { Ok(out.line(token)?) }
}
