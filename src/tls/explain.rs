//! What went wrong in a handshake, in words that say where to look.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Whether that is what comes of a handshake with who knows none.
pub(super) fn speaks_no_tls(error: &io::Error) -> bool {
    let is_cut = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
    is_cut || matches!(inner(error), Some(Error::InvalidMessage(_)))
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the other side has refused the certificate that was shown, or that none was: it has read nothing by then.
pub fn is_refusal(error: &io::Error) -> bool {
    use AlertDescription as Alert;
    matches!(
        inner(error),
        Some(Error::AlertReceived(
            Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnsupportedCertificate
                | Alert::AccessDenied
        ))
    )
}

/// What a handshake that failed comes to for who has called.
pub(super) fn explain_call(error: io::Error) -> io::Error {
    match inner(&error) {
        None if speaks_no_tls(&error) => io::Error::new(
            io::ErrorKind::InvalidData,
            "it ended the handshake without a word; it may have as many clients as it allows, or speak no TLS",
        ),
        _ => explain(error),
    }
}

/// The same error in plain words, if it is one of TLS; any other as it is.
pub fn explain(error: io::Error) -> io::Error {
    let told = match inner(&error) {
        Some(Error::InvalidCertificate(why)) => of_certificate(why),
        Some(Error::InvalidMessage(_)) => "it speaks no TLS".to_owned(),
        Some(Error::AlertReceived(alert)) => of_alert(*alert),
        Some(Error::General(why)) => why.clone(),
        Some(other) => other.to_string(),
        None => return error,
    };
    // Not the reason for which somebody tries again: it will be the same.
    io::Error::new(io::ErrorKind::InvalidData, told)
}

fn of_certificate(why: &CertificateError) -> String {
    match why {
        // Two authorities of one name are told apart by what they sign.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of no authority that is believed here; look into the file of authorities".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not yet valid; look at the clocks of both machines".to_owned()
        }
        CertificateError::Revoked => "its certificate was revoked".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is of another host ({why}); call it by a name that is in its certificate")
        }
        other => format!("its certificate cannot be used: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "it wants a certificate of who calls".to_owned(),
        AlertDescription::UnknownCA => "it does not believe the authority of the certificate that was shown".to_owned(),
        AlertDescription::CertificateExpired => "the certificate that was shown has expired".to_owned(),
        AlertDescription::CertificateRevoked => "the certificate that was shown was revoked".to_owned(),
        other => format!("it ended the handshake: {other:?}"),
    }
}
