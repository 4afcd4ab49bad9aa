//! Chooses the provider of the server: a pure decision over the environment and the facts of the machine.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

use crate::docker;
use crate::error::{Error, Result};

/// The public image that Docker runs unless `FF_VALKEY_IMAGE` names another.
pub const DEFAULT_IMAGE: &str = "valkey/valkey:8.1";

/// The provider of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// A container of this machine's Docker.
    Docker,
    /// A process of this machine.
    Process,
    /// The server that `FF_TEST_VALKEY_URL` names.
    Shared,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Process => "process",
            Self::Shared => "shared",
        })
    }
}

/// A provider with everything needed to start a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Docker { image: String },
    Process { program: PathBuf },
    Shared { url: String },
}

/// The variables of the choice; an empty one counts as unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env {
    pub(crate) provider: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) program: Option<String>,
    pub(crate) shared_url: Option<String>,
}

impl Env {
    pub(crate) fn read() -> Self {
        let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            provider: get("FF_TEST_PROVIDER"),
            image: get("FF_VALKEY_IMAGE"),
            program: get("FF_VALKEY_SERVER"),
            shared_url: get("FF_TEST_VALKEY_URL"),
        }
    }

    fn forced(&self) -> Result<Option<Provider>> {
        match self.provider.as_deref() {
            None => Ok(None),
            Some("docker") => Ok(Some(Provider::Docker)),
            Some("process") => Ok(Some(Provider::Process)),
            Some(other) => Err(Error::UnknownProvider { value: other.to_owned() }),
        }
    }

    fn image(&self) -> String {
        self.image.clone().unwrap_or_else(|| DEFAULT_IMAGE.to_owned())
    }
}

/// The state of Docker on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DockerFact {
    /// No daemon answers, with its reason.
    NoDaemon(String),
    /// The daemon answers and does not have the image.
    ImageMissing,
    /// The daemon answers and has the image.
    ImagePresent,
}

/// Makes the choice. The two facts are queried only if needed, because each costs a few milliseconds.
pub(crate) async fn choose<D, P>(env: &Env, docker: D, program: P) -> Result<Choice>
where
    D: AsyncFn(&str) -> DockerFact,
    P: Fn() -> Option<PathBuf>,
{
    let forced = env.forced()?;
    if let Some(url) = &env.shared_url {
        return Ok(Choice::Shared { url: url.clone() });
    }
    let image = env.image();
    let found = || env.program.as_ref().map(PathBuf::from).or_else(&program);
    match forced {
        Some(Provider::Docker) => match docker(&image).await {
            DockerFact::NoDaemon(reason) => {
                Err(Error::Docker(format!("FF_TEST_PROVIDER=docker, but no daemon answers: {reason}")))
            }
            DockerFact::ImageMissing | DockerFact::ImagePresent => Ok(Choice::Docker { image }),
        },
        Some(_) => found().map(|program| Choice::Process { program }).ok_or_else(|| Error::NoProvider {
            tried: "FF_TEST_PROVIDER=process, but there is no valkey-server on the PATH or under target/valkey".into(),
        }),
        None => match (docker(&image).await, found()) {
            (DockerFact::ImagePresent, _) | (DockerFact::ImageMissing, None) => Ok(Choice::Docker { image }),
            (_, Some(program)) => Ok(Choice::Process { program }),
            (DockerFact::NoDaemon(reason), None) => Err(Error::NoProvider {
                tried: format!("no Docker daemon ({reason}), no valkey-server on the PATH or under target/valkey"),
            }),
        },
    }
}

/// The choice for this test program, made once.
pub(crate) async fn chosen() -> Result<Choice> {
    static CHOICE: OnceCell<Choice> = OnceCell::const_new();
    CHOICE
        .get_or_try_init(|| async {
            choose(&Env::read(), async |image: &str| docker::fact(image).await, find_program).await
        })
        .await
        .cloned()
}

/// The program for a server that must be a process, whatever provides the others.
pub(crate) fn program() -> Option<PathBuf> {
    Env::read().program.map(PathBuf::from).or_else(find_program)
}

/// The directory of the workspace's builds.
pub(crate) fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}

/// A server on the `PATH`, else one unpacked under the target directory.
fn find_program() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join("valkey-server")).find(|file| file.is_file()));
    on_path.or_else(|| Some(target().join("valkey/bin/valkey-server")).filter(|file| file.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> PathBuf {
        PathBuf::from("/usr/bin/valkey-server")
    }

    async fn decide(env: &Env, docker: DockerFact, with_program: bool) -> Result<Choice> {
        choose(env, async |_: &str| docker.clone(), || with_program.then(program)).await
    }

    fn no_daemon() -> DockerFact {
        DockerFact::NoDaemon("refused".into())
    }

    fn forced(value: &str) -> Env {
        Env { provider: Some(value.into()), ..Env::default() }
    }

    #[tokio::test]
    async fn docker_with_the_image_comes_before_a_program() {
        let choice = decide(&Env::default(), DockerFact::ImagePresent, true).await.unwrap();
        assert_eq!(choice, Choice::Docker { image: DEFAULT_IMAGE.into() });
    }

    #[tokio::test]
    async fn a_program_at_hand_comes_before_pulling_an_image() {
        let choice = decide(&Env::default(), DockerFact::ImageMissing, true).await.unwrap();
        assert_eq!(choice, Choice::Process { program: program() });
        let choice = decide(&Env::default(), DockerFact::ImageMissing, false).await.unwrap();
        assert!(matches!(choice, Choice::Docker { .. }));
    }

    #[tokio::test]
    async fn without_docker_the_program_is_used() {
        let choice = decide(&Env::default(), no_daemon(), true).await.unwrap();
        assert_eq!(choice, Choice::Process { program: program() });
    }

    #[tokio::test]
    async fn without_any_provider_the_error_lists_what_was_tried() {
        let error = decide(&Env::default(), no_daemon(), false).await.unwrap_err().to_string();
        assert!(error.contains("refused") && error.contains("scripts/fetch-valkey.sh"), "{error}");
    }

    #[tokio::test]
    async fn a_forced_provider_is_used_or_an_error() {
        assert!(matches!(decide(&forced("process"), DockerFact::ImagePresent, true).await, Ok(Choice::Process { .. })));
        assert!(matches!(decide(&forced("docker"), DockerFact::ImageMissing, true).await, Ok(Choice::Docker { .. })));
        let error = decide(&forced("docker"), no_daemon(), true).await.unwrap_err().to_string();
        assert!(error.contains("FF_TEST_PROVIDER=docker") && error.contains("refused"), "{error}");
        let error = decide(&forced("process"), DockerFact::ImagePresent, false).await.unwrap_err().to_string();
        assert!(error.contains("FF_TEST_PROVIDER=process"), "{error}");
    }

    #[tokio::test]
    async fn an_unknown_provider_is_named_with_the_allowed_ones() {
        let error = decide(&forced("podman"), DockerFact::ImagePresent, true).await.unwrap_err().to_string();
        assert!(error.contains("podman") && error.contains("docker or process"), "{error}");
    }

    #[tokio::test]
    async fn a_forced_process_never_asks_docker() {
        let choice = choose(&forced("process"), async |_: &str| panic!("docker was asked"), || Some(program())).await;
        assert_eq!(choice.unwrap(), Choice::Process { program: program() });
    }

    #[tokio::test]
    async fn a_shared_server_overrides_everything_else() {
        let env = Env { shared_url: Some("redis://127.0.0.1:1".into()), ..forced("process") };
        let choice = decide(&env, DockerFact::ImagePresent, true).await.unwrap();
        assert_eq!(choice, Choice::Shared { url: "redis://127.0.0.1:1".into() });
    }

    #[tokio::test]
    async fn the_environment_names_the_image_and_the_program() {
        let env = Env { image: Some("mine:1".into()), program: Some("/opt/valkey".into()), ..Env::default() };
        let choice = decide(&env, DockerFact::ImagePresent, true).await.unwrap();
        assert_eq!(choice, Choice::Docker { image: "mine:1".into() });
        let choice = decide(&env, no_daemon(), true).await.unwrap();
        assert_eq!(choice, Choice::Process { program: "/opt/valkey".into() });
    }
}
