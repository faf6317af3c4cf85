//! In which of its two formats a scraper gets the metrics page: the older text (0.0.4), which everything reads, unless it
//! asks for OpenMetrics.

use std::fmt::Write as _;

/// Of the page as OpenMetrics.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of the page as older text.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The version of OpenMetrics that is spoken here.
const VERSION: &str = "1.0.0";

/// Whether these `Accept` headers prefer OpenMetrics; who wants both alike gets it.
pub(super) fn wants_openmetrics<'a>(accepts: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut open, mut text) = (0.0_f32, [None; 3]);
    for range in accepts.into_iter().flat_map(|accept| accept.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut quality = Some(1.0);
        let mut is_spoken = true;
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.parse().ok().filter(|quality| (0.0..=1.0).contains(quality)),
                "version" => is_spoken = value == VERSION,
                _ => {}
            }
        }
        // What cannot be read asks for nothing.
        let Some(quality) = quality else { continue };
        match kind.as_str() {
            "application/openmetrics-text" if is_spoken => open = open.max(quality),
            "text/plain" => keep_most(&mut text[0], quality),
            "text/*" => keep_most(&mut text[1], quality),
            "*/*" => keep_most(&mut text[2], quality),
            _ => {}
        }
    }
    // The most exact range says how welcome text is.
    let text = text.into_iter().flatten().next().unwrap_or(0.0);
    open > 0.0 && open >= text
}

fn keep_most(kept: &mut Option<f32>, quality: f32) {
    *kept = Some(kept.map_or(quality, |kept| kept.max(quality)));
}

/// The page in the older text: there a counter's family is named as its samples are, and there is no kind "info".
pub(super) fn as_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (end, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "gauge" | "histogram" | "summary" => ("", kind),
                _ => ("", "untyped"),
            };
            // Help comes first, and its name depends on the kind.
            if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{end} {said}");
            }
            let _ = writeln!(text, "# TYPE {name}{end} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, wanted) in [
            (&[][..], false),
            (&[""], false),
            (&["*/*"], false),
            (&["text/plain;version=0.0.4"], false),
            (&["application/openmetrics-text"], true),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"], true),
            (&["application/openmetrics-text;version=1.0.0,text/plain;q=0.5"], true),
            (&["application/openmetrics-text;version=1.0.0;q=0.5,text/plain"], false),
            (&["application/openmetrics-text;q=0.5, text/*;q=0.9"], false),
            (&["application/openmetrics-text;q=0.5, text/plain;q=0.2, */*;q=0.9"], true),
            (&["application/openmetrics-text;q=0, text/plain;q=0"], false),
            (&["application/openmetrics-text;q=abc"], false),
            (&["application/openmetrics-text;version=2.0.0,text/plain;q=0.1"], false),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], false),
            (&["text/plain;q=0.3", "application/openmetrics-text;q=0.7"], true),
            (&[prometheus], true),
        ] {
            assert_eq!(wants_openmetrics(accept.iter().copied()), wanted, "{accept:?}");
        }
    }

    #[test]
    fn the_older_text_names_families_as_samples_are_named() {
        let open = "# HELP a A counter.\n# TYPE a counter\na_total{x=\"1\"} 3\n# HELP b What it is.\n# TYPE b info\n\
            b_info{v=\"1\"} 1\n# TYPE c histogram\n# UNIT c seconds\nc_bucket{le=\"+Inf\"} 0\n# TYPE d unknown\nd 1\n# EOF\n";
        let text = "# HELP a_total A counter.\n# TYPE a_total counter\na_total{x=\"1\"} 3\n# HELP b_info What it is.\n\
            # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# TYPE c histogram\nc_bucket{le=\"+Inf\"} 0\n# TYPE d untyped\nd 1\n";
        assert_eq!(as_text(open), text);
    }
}
