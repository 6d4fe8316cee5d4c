//! `imdsctl release`: stops both services and lets imds-interceptor give the host its direct route back. Undoes nothing
//! by itself.

use crate::Fault;
use imds_settings::exit;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// There when systemd runs the machine (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

pub(crate) fn run(config: Option<&Path>) -> Result<String, Fault> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fault::new(exit::PERMISSION, "it takes root to release the host"));
    }
    stop_services();
    let mut interceptor = Command::new("imds-interceptor");
    if let Some(config) = config {
        interceptor.arg("--config").arg(config);
    }
    // it refuses while an interceptor runs, so what could not be stopped is told
    let status = status(interceptor.arg("release"))?;
    match status.code().map(u8::try_from) {
        Some(Ok(0)) => Ok("released: every process reaches the metadata service directly\n".into()),
        Some(Ok(code)) => Err(Fault::new(code, "imds-interceptor did not release the host")),
        Some(Err(_)) | None => Err(Fault::new(exit::OS, format!("imds-interceptor release: {status}"))),
    }
}

fn stop_services() {
    let stopped = if Path::new(SYSTEMD).is_dir() {
        status(Command::new("systemctl").args(["stop", "imds-filterd.service", "imds-interceptor.service"]))
            .map(drop)
    } else {
        ["imds_filterd", "imds_interceptor"]
            .iter()
            .try_for_each(|name| status(Command::new("service").args([name, "onestop"])).map(drop))
    };
    if let Err(fault) = stopped {
        eprintln!("{}", fault.message);
    }
}

fn status(command: &mut Command) -> Result<ExitStatus, Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.status().map_err(|error| Fault::new(exit::OS, format!("{name}: {error}")))
}
