//! Keys of an issuer that exists in these tests alone, in DER: made by `openssl genpkey`, known to everybody.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const RSA: &str = "MIIEowIBAAKCAQEA0U8KqPc5M7XRdnCPUauXm/ZKFWoXC54/SA7ZcaGseb7CIFT9aG+SBKniZ3i/+b9ML6UXa/Sr+f/TKnCR2FpX85kSOzXtQyfKQjfm0txgI3H/C2g5h7iEO6NgvbvypOLkQvOzio+lDsn9Z0sm3NH+TUJM+2NNU71SBvQyHb/vfLRJdTmoh5hlp0PEbONfHv0WWwBOReAVd8Ux6/OwFRvqjb93fYKZcCkl3W6fRRyzJiVbilpxetMm6oEuN0fZI8W7CHTtVt7pIvXTt/YvhGcKVnVIOUYoJWdm+g8+0WYVIUH7mrugbWe+fjwjChEH4GhxDyF0eKVJC5ihHU7Fs5959wIDAQABAoIBABqmdkSCSenAHj324gCzmPe2OcOVQP7tNMB/h4c03ymXNM96EtPv1Mc8PEQRd1wc094DJsLLofQQczoloCRMiINPO6eHW8DfuZyJ0p2JisIomyFAMYcK4udXC5PM8P22l/rAXd1oIcuKw3WZ94ZJRJhgtz2Q7MEbS2zwPctU63DUpszQp+FBlyzUnF5f6LZ8/lw+wdmzshLGm2C0CaIEGrwospURhCLm5GdKidFlHamOp1nh4p91Irz7mmogAE0HCbrdM7PI6dAHcKs6dSol9j/5NsHXU11sh+83+v730L759k91Vm0+knLhX6FOBrSowdsGZmUUMGoK9Ls41ZbbSmECgYEA6TzYRoAO8++6sHAHdhbWuCLH0DpwYr2nWJPJJbrRc4mwDGrtDcyMQRW4OnUcnQ3n7+zYB5lTY6b/oLEO3Xegna0kf+1yddJoyw62z/lJCKzseRfFkLYv6umEOkYd7afF2BBluR2b+4Uj0d6W1F/aL61SPIU1ba3J1ZpdNWgYpSECgYEA5bxcwoB9REycWojG5H6YQLL+ddbd24vRDhZU9YMttgmdfBtHUsc+2n9AL0emaP/DiTQ2VG0A3m0ci7UOduSw7QKAORrOML5EJmobRHdPYyV6bdDUYnWthqgRlYi51/YUsjcJr3VQ9qNCyqsJDp7WPjK5j8zynEyCRf3TbWwwJBcCgYAw5+85qTR5dfUhdfw6iMNxTOm1Aev66GWkryhoXun4XhCqKemXESL/qrw8lb3wOLA/oNwTi9Tuel/zo+zIB4OITHvwzytHBV2v5l/y8ASeaxQSuCdXFrypd1mgln9EC//yNE4AKPNCJELEiPX7hjXL9X3e7terLdu6jGmq/y7bwQKBgQCq3KsIpdOExo3K78stCdJm3DlQnxumO5iiJ43Mg2Gt7/zG3uru7+0ZSGcOQvXLRd3B36lApUluJCyE44X8ex3zSFbhIcSUkA3TnDrncu0CSk+B+TzcdbU3Xyyk0GmX6xd9bF2xt0keBlKYtRgpXYzt+X/1KXKPOH/zWlKzITG0xQKBgHH48ccpTYoRvmEFzG75ZqekWz322sPrhEk6mpWjbBpXKlRkMvuzx/Snck4TpzcrClMeQmK8WrleRfeq1YdhgTw5Ev5yCHnEM18Dkvp+vq1VzxJqjdRlVR/Fh31SlWGq/vPYziV2z0uqjIMDZHWVno/mWiNpwa9o7yF6mzXjaEXs";
const EC: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQggj/voHWdPDK2n8TJvKXeMwWcbFOTTmS0eTrnWzRJWO2hRANCAARDa2996MduLvahxvm9oHM3+b7wBGkZsN/31L1VXIXti0ZuJCgh6aik+oBBnwKyKE36uQpRY/1yxtYiWIqZGmzE";
const ED: &str = "MC4CAQAwBQYDK2VwBCIEID3QkdXw6yVIZnOuiT9FwliBX3QMmDwljVxmP1lPevSr";
const OTHER_ED: &str = "MC4CAQAwBQYDK2VwBCIEIARCRu+s/K2pkRLNYvV7jhJ42ZQvLY7ifYkigxZVaPic";

/// A key that signs, and its name.
pub(crate) struct Key {
    pub(crate) id: &'static str,
    pub(crate) algorithm: Algorithm,
    signs: EncodingKey,
}

fn der(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm, signs: EncodingKey) -> Self {
        Self {
            id,
            algorithm,
            signs,
        }
    }

    pub(crate) fn rsa() -> Self {
        Self::new(
            "rsa",
            Algorithm::RS256,
            EncodingKey::from_rsa_der(&der(RSA)),
        )
    }

    pub(crate) fn ec() -> Self {
        Self::new("ec", Algorithm::ES256, EncodingKey::from_ec_der(&der(EC)))
    }

    pub(crate) fn ed() -> Self {
        Self::new("ed", Algorithm::EdDSA, EncodingKey::from_ed_der(&der(ED)))
    }

    /// Another one of the same kind.
    pub(crate) fn other() -> Self {
        Self::new(
            "other",
            Algorithm::EdDSA,
            EncodingKey::from_ed_der(&der(OTHER_ED)),
        )
    }

    /// The public half, as a JWK.
    pub(crate) fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.signs, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.id);
        jwk
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(self.algorithm, Some(self.id), claims)
    }

    pub(crate) fn sign_as(&self, algorithm: Algorithm, id: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        encode(&header, claims, &self.signs).unwrap()
    }
}

/// Signed with a secret that everybody knows: the public key's own text.
pub(crate) fn signed_with_the_public_key(key: &Key, secret: &[u8], claims: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.id.to_owned());
    encode(&header, claims, &EncodingKey::from_secret(secret).unwrap()).unwrap()
}

pub(crate) fn set(keys: &[&Key]) -> Value {
    let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
    json!({ "keys": keys })
}
