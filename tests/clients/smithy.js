// Fetches credentials by the JavaScript SDK's own client, as any program on an instance does; prints what it got.
// Must not read configuration or credentials from anywhere else. The endpoint mode comes from the environment.
"use strict";

const { fromInstanceMetadata } = require("@smithy/credential-provider-imds");

fromInstanceMetadata()().then(
  (credentials) => {
    // made up by imds-mock; printed whole, to be compared
    console.log("access-key", credentials.accessKeyId);
    console.log("secret-key", credentials.secretAccessKey);
    console.log("token", credentials.sessionToken);
    console.log("expiration", credentials.expiration.toISOString());
  },
  (error) => {
    console.log("failed:", error.name, error.statusCode, error.message);
    process.exitCode = 1;
  },
);
