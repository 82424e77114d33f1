//! The API server as a pod finds it: by the environment's address of the `kubernetes` service, with its account's certificate and token.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::lab::said;
use crate::common::objects::idle;
use crate::common::rows::Bench;

const CLIENT: &str = "api-client";

pub(crate) fn answers_pods(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[idle(CLIENT, "n2", CLIENT)?])?;
    lab.settled()?;
    let script = "account=/var/run/secrets/kubernetes.io/serviceaccount; \
        curl -sS --noproxy '*' --max-time 5 --cacert $account/ca.crt -H \"Authorization: Bearer $(cat $account/token)\" \
        -w '\\n%{http_code} of %{remote_ip}' \"https://$KUBERNETES_SERVICE_HOST:443/version\"";
    let output = lab.pod(CLIENT, &["sh", "-c", script])?;
    let text = said(&output).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let (page, code) = text.rsplit_once('\n').context("no code")?;
    let version: Value = serde_json::from_str(page).with_context(|| text.clone())?;
    ensure!(code.starts_with("200 ") && version["gitVersion"].is_string(), "{text}");
    lab.delete("pod", &[CLIENT])?;
    Ok(format!("{code}, {}", version["gitVersion"]))
}
