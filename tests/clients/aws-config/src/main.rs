//! Fetches credentials, the region and a value by the Rust SDK, as any program on an instance does; prints what it got.
//! Must not read configuration or credentials from anywhere else. The endpoint mode comes from the environment.
#![forbid(unsafe_code)]

use aws_config::imds::Client;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let fetched = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(fetch()));
    match fetched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn fetch() -> Result<(), Box<dyn Error>> {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = ProviderConfig::without_region().with_http_client(http);
    let client = Client::builder().configure(&config).build();
    println!("instance-id {}", client.get("/latest/meta-data/instance-id").await?.as_ref());
    let region = ImdsRegionProvider::builder().configure(&config).imds_client(client.clone()).build();
    println!("region {}", region.region().await.ok_or("no region")?);
    let provider = ImdsCredentialsProvider::builder().configure(&config).imds_client(client).build();
    let credentials = provider.provide_credentials().await?;
    // made up by imds-mock; printed whole, to be compared
    println!("access-key {}", credentials.access_key_id());
    println!("secret-key {}", credentials.secret_access_key());
    println!("token {}", credentials.session_token().ok_or("no token")?);
    Ok(())
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
