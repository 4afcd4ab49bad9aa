//! A server as a container, through `testcontainers`.
//!
//! Ports are fixed on the host, because a mapped port changes when a container is restarted; clients connect to
//! 127.0.0.1, never to a bridge address. Readiness is checked by PING as everywhere else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::{IntoContainerPort, Mount};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::runtime::Handle;

use crate::error::{Doing, Error, Result};
use crate::options::{Layout, Options, server_args};
use crate::port::Port;
use crate::process::last_lines;
use crate::provider::DockerFact;
use crate::tls::TlsFiles;
use crate::watch::Watch;

/// The label of every container of this crate; its value is the process id of the test program.
pub const LABEL: &str = "ff-testserver";

/// The time limit for the daemon's answer.
const DAEMON: Duration = Duration::from_secs(2);
/// The time limit for pulling the image and creating the container.
const CREATE: Duration = Duration::from_secs(90);
const STOP_GRACE_SECONDS: i32 = 5;

const PLAIN_PORT: u16 = 6379;
const TLS_PORT: u16 = 6380;
const DATA_DIR: &str = "/data";
const TLS_DIR: &str = "/ff-tls";
const SOCKET_DIR: &str = "/ff-socket";
const SOCKET: &str = "valkey.sock";

/// Asks the daemon whether it has the image.
pub(crate) async fn fact(image: &str) -> DockerFact {
    let asked = async {
        let docker = docker_client_instance().await.map_err(|error| error.to_string())?;
        docker.ping().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(docker.inspect_image(image).await.is_ok())
    };
    match tokio::time::timeout(DAEMON, asked).await {
        Ok(Ok(true)) => DockerFact::ImagePresent,
        Ok(Ok(false)) => DockerFact::ImageMissing,
        Ok(Err(reason)) => DockerFact::NoDaemon(reason),
        Err(_) => DockerFact::NoDaemon(format!("no reply within {DAEMON:?}")),
    }
}

#[derive(Debug)]
pub(crate) struct DockerServer {
    image: String,
    /// `None` only during the drop.
    container: Option<ContainerAsync<GenericImage>>,
    /// Holds the certificates and the socket.
    dir: TempDir,
    /// Dropped after the container is removed.
    _watch: Watch,
    /// A container starts when it is created, so the first start does nothing.
    fresh: bool,
}

impl DockerServer {
    /// Creates and starts the container; it may not answer yet.
    pub(crate) async fn new(
        image: &str,
        options: &Options,
        plain: &Port,
        tls: Option<&Port>,
    ) -> Result<(Self, Option<TlsFiles>)> {
        let dir = tempfile::Builder::new().prefix("ff-valkey-").tempdir().doing("making a directory")?;
        let tls_files = options.tls.then(|| TlsFiles::generate(dir.path())).transpose()?;
        let args = server_args(options, &layout(options, tls.is_some())?);
        let name = unique_name();
        let mut request = request(image, args)?
            .with_container_name(&name)
            .with_label(LABEL, std::process::id().to_string())
            .with_mapped_port(plain.number(), PLAIN_PORT.tcp());
        if let Some(tls) = tls {
            request = request.with_mapped_port(tls.number(), TLS_PORT.tcp());
        }
        if let Some(files) = &tls_files {
            for file in [&files.ca_cert, &files.server_cert, &files.server_key] {
                let base = file.file_name().unwrap_or_default().to_string_lossy();
                request = request.with_copy_to(format!("{TLS_DIR}/{base}"), file.clone());
            }
        }
        if options.unix_socket {
            request = request.with_mount(Mount::bind_mount(open_directory(&dir)?, SOCKET_DIR));
        }
        let watch = Watch::over_container(&name, dir.path())?;
        let container = create(request, &name, image).await?;
        Ok((Self { image: image.to_owned(), container: Some(container), dir, _watch: watch, fresh: true }, tls_files))
    }

    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    pub(crate) fn socket(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("socket").join(SOCKET))
    }

    fn container(&self) -> &ContainerAsync<GenericImage> {
        self.container.as_ref().expect("the container is taken only by drop")
    }

    pub(crate) async fn start(&mut self) -> Result<()> {
        if std::mem::take(&mut self.fresh) {
            return Ok(());
        }
        self.container().start().await.map_err(failed)
    }

    pub(crate) async fn ended(&self) -> Result<Option<String>> {
        if self.container().is_running().await.map_err(failed)? {
            return Ok(None);
        }
        Ok(Some(self.last_lines().await))
    }

    pub(crate) async fn last_lines(&self) -> String {
        let mut text = self.container().stdout_to_vec().await.unwrap_or_default();
        text.extend(self.container().stderr_to_vec().await.unwrap_or_default());
        last_lines(&String::from_utf8_lossy(&text))
    }

    pub(crate) async fn kill(&self) -> Result<()> {
        if !self.container().is_running().await.map_err(failed)? {
            return Ok(());
        }
        let docker = docker_client_instance().await.map_err(failed)?;
        docker.kill_container(self.container().id(), None).await.map_err(failed)
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        // Fails if the container is not paused, the usual case.
        let _ = self.container().unpause().await;
        self.container().stop_with_timeout(Some(STOP_GRACE_SECONDS)).await.map_err(failed)
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        self.container().pause().await.map_err(failed)
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        self.container().unpause().await.map_err(failed)
    }

    /// The address at which other containers reach this one.
    pub(crate) async fn address(&self) -> Option<String> {
        // The container's own `get_bridge_ip_address` does not find a network with the name "default".
        let docker = docker_client_instance().await.ok()?;
        let container = docker.inspect_container(self.container().id(), None).await.ok()?;
        let networks = container.network_settings?.networks?;
        networks.into_values().find_map(|network| network.ip_address.filter(|address| !address.is_empty()))
    }
}

impl Drop for DockerServer {
    fn drop(&mut self) {
        let Some(container) = self.container.take() else { return };
        if Handle::try_current().is_ok() {
            drop(container);
            return;
        }
        // The container's own drop needs a runtime, and a server held by a static or by a plain test does not have one.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let _inside = runtime.enter();
            drop(container);
        }
    }
}

fn layout(options: &Options, tls: bool) -> Result<Layout> {
    let primary = match &options.replica_of {
        None => None,
        Some(primary) => match &primary.container_address {
            Some(address) => Some((address.clone(), PLAIN_PORT)),
            None => return Err(Error::Docker("replica_of() needs a primary that is a container too".into())),
        },
    };
    Ok(Layout {
        plain_port: PLAIN_PORT,
        tls_port: tls.then_some(TLS_PORT),
        bind: "0.0.0.0",
        data_dir: DATA_DIR.into(),
        tls_dir: TLS_DIR.into(),
        socket: format!("{SOCKET_DIR}/{SOCKET}"),
        primary,
    })
}

fn request(image: &str, args: Vec<String>) -> Result<ContainerRequest<GenericImage>> {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => Ok(GenericImage::new(name, tag).with_cmd(args)),
        _ => Err(Error::Docker(format!("FF_VALKEY_IMAGE={image} has no tag; name it as name:tag"))),
    }
}

/// A directory that any user of the container may write to.
fn open_directory(dir: &TempDir) -> Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let socket = dir.path().join("socket");
    std::fs::create_dir(&socket).doing("making the socket's directory")?;
    for path in [dir.path(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
            .doing("opening the socket's directory")?;
    }
    Ok(socket.to_string_lossy().into_owned())
}

async fn create(
    request: ContainerRequest<GenericImage>,
    name: &str,
    image: &str,
) -> Result<ContainerAsync<GenericImage>> {
    let error = match tokio::time::timeout(CREATE, request.start()).await {
        Ok(Ok(container)) => return Ok(container),
        Ok(Err(error)) => failed(error),
        Err(_) => Error::Docker(format!("no container of {image} within {CREATE:?}")),
    };
    // A container that was created and could not be started is not removed otherwise.
    if let Ok(docker) = docker_client_instance().await {
        let _ = docker.remove_container(name, None).await;
    }
    Err(error)
}

fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let started = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
    format!("ff-testserver-{}-{}-{started}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The whole chain of causes in one line; the last contains the daemon's message.
fn failed(error: impl std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    Error::Docker(text)
}
