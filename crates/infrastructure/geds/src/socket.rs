//! UNIX sockets that only the user of this process may open.

use crate::{Error, Result};
use std::{future::Future, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

/// After a connection that could not be accepted, for want of files for instance: better later than never.
const AGAIN: Duration = Duration::from_millis(200);

/// A listener in the place of what an earlier one has left there.
pub(crate) fn listen(socket: &Path) -> Result<UnixListener> {
    let fail = |action: &'static str| move |source| Error::File { action, path: socket.into(), source };
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail("remove")(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(fail("listen on"))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(fail("protect"))?;
    Ok(listener)
}

/// Serves each connection by a task of its own, until this is dropped; the tasks end with it.
pub(crate) async fn serve<F>(listener: UnixListener, mut each: impl FnMut(UnixStream) -> F) -> Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = served.join_next(), if !served.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(served.spawn(each(stream))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(AGAIN).await;
                }
            },
        }
    }
}
