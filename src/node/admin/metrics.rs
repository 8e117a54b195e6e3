//! Counters as Prometheus text, version 0.0.4.

use std::fmt::Write;

use crate::io::Storage;
use crate::metrics::Summary;
use crate::node::http::HttpWatch;
use crate::node::lines::LinesWatch;
use crate::node::receiver::Receiver;

const MICROS: f64 = 1e6;

/// Metrics, written one family after another: `# HELP`, `# TYPE`, samples.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value as f64);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value as f64);
    }

    /// A distribution of whole numbers, `scale` of which make the unit the name says.
    fn summary(&mut self, name: &str, help: &str, summary: &Summary, scale: f64) {
        self.family(name, "summary", help);
        for (quantile, value) in [("0.5", summary.p50), ("0.99", summary.p99), ("1", summary.max)] {
            self.sample(name, &[("quantile", quantile)], value as f64 / scale);
        }
        self.sample(&format!("{name}_sum"), &[], summary.sum as f64 / scale);
        self.sample(&format!("{name}_count"), &[], summary.count as f64);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text += name;
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text += if at == 0 { "{" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _infallible = write!(self.text, "{label}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.text += "}";
        }
        let _infallible = writeln!(self.text, " {value}");
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

pub(super) fn of_receiver<S: Storage>(text: &mut Exposition, receiver: &Receiver<S>) {
    let stats = receiver.stats();
    let intake = stats.intake;
    text.family("seawall_receiver_info", "gauge", "The stream that is received.");
    text.sample("seawall_receiver_info", &[("stream", receiver.stream())], 1.0);
    text.gauge("seawall_receiver_failed", "1 when nothing is acknowledged any more.", stats.failure.is_some().into());
    for (name, help, value) in [
        ("sessions", "Sessions at this moment.", intake.sessions),
        ("sources", "Sources known.", intake.sources),
        ("charged_bytes", "Bytes read or being read, and not durable.", intake.charged_bytes),
    ] {
        text.gauge(&format!("seawall_receiver_{name}"), help, value);
    }
    for (name, help, value) in [
        ("records", "Records put into blocks.", intake.records),
        ("payload_bytes", "Their payload bytes, headers included.", intake.payload_bytes),
        ("blocks", "Blocks given to the log.", intake.blocks),
        ("duplicates", "Records that had been received before.", intake.duplicates),
        ("gaps", "SENDs that did not continue their source's sequence.", intake.gaps),
        ("replaced", "Sessions taken over by a newer one of the same source.", intake.replaced),
        (
            "acked_losses",
            "Sources that were told something to be durable that is not here: any is an alarm.",
            intake.acked_losses,
        ),
        ("rejected", "Records kept as rejects.", intake.rejected),
        ("dropped", "Records dropped at the wish of a source that waits for nothing durable.", intake.dropped),
        ("refused", "Sessions ended because of something they said.", intake.refused),
        ("timed_out", "Sessions ended because nothing was heard.", intake.timed_out),
    ] {
        text.counter(&format!("seawall_receiver_{name}_total"), help, value);
    }
}

pub(super) fn of_log<S: Storage>(text: &mut Exposition, receiver: &Receiver<S>) {
    let log = receiver.log().stats();
    for (name, help, value) in [
        ("appended_lsn", "The last frame with a position.", log.watermarks.appended.get()),
        ("written_lsn", "The last frame handed to the kernel.", log.watermarks.written.get()),
        ("durable_lsn", "The last frame that survived a flush of the device.", log.watermarks.flushed.get()),
        ("trimmed_lsn", "The last frame given up.", log.watermarks.trimmed.get()),
        ("in_flight_bytes", "Bytes appended and not yet flushed.", log.in_flight_bytes),
        ("segments", "Segments in use.", log.segments as u64),
        ("spare_segments", "Segments prepared and unused.", log.spare_segments as u64),
        ("used_bytes", "Bytes of all segment files.", log.used_bytes),
        ("flush_depth", "Device writes that may be in flight now.", log.flush_depth as u64),
        ("faulty_ranges", "Ranges of frames that readers found damaged.", log.faulty_ranges.len() as u64),
        ("poisoned", "1 when the log acknowledges nothing any more.", log.poisoned.into()),
        ("full", "1 when no segment can be prepared just now.", log.full.is_some().into()),
    ] {
        text.gauge(&format!("seawall_log_{name}"), help, value);
    }
    for (name, help, value) in [
        ("frame_bytes", "Bytes of flushed frames, headers included.", log.frame_bytes),
        ("device_bytes", "Bytes written to segments as groups, padding included.", log.device_bytes),
        ("prepared_bytes", "Bytes written ahead to prepare segments.", log.prepared_bytes),
        ("flushes", "Groups made durable.", log.flush_micros.count),
        ("groups_led", "Groups written by a thread that waited for them.", log.groups_led),
        ("groups_driven", "Groups written by the I/O driver.", log.groups_driven),
        ("groups_by_pool", "Groups that a thread of the I/O driver wrote, not io_uring.", log.groups_by_pool),
        ("rotations", "Segment changes.", log.rotations),
        ("dropped_frames", "Frames given up by DropOldest.", log.dropped_frames),
    ] {
        text.counter(&format!("seawall_log_{name}_total"), help, value);
    }
    for (name, help, summary, scale) in [
        ("write_seconds", "Handing a group to the kernel, since the log was opened.", log.write_micros, MICROS),
        ("flush_seconds", "Making a group durable, since the log was opened.", log.flush_micros, MICROS),
        ("queue_wait_seconds", "How long a group's oldest frame waited to be written.", log.queue_wait_micros, MICROS),
        ("group_frames", "Frames per group.", log.group_frames, 1.0),
        ("group_bytes", "Bytes per group.", log.group_bytes, 1.0),
    ] {
        text.summary(&format!("seawall_log_{name}"), help, &summary, scale);
    }
}

pub(super) fn of_http(text: &mut Exposition, gateways: &[(String, HttpWatch)]) {
    if gateways.is_empty() {
        return;
    }
    text.family("seawall_http_answers_total", "counter", "Answers by status.");
    for (name, watch) in gateways {
        for (status, count) in watch.answers() {
            let labels = [("gateway", &name[..]), ("status", &status.to_string())];
            text.sample("seawall_http_answers_total", &labels, count as f64);
        }
    }
    text.family("seawall_http_sources_kept", "gauge", "Sources whose session is kept for their next request.");
    for (name, watch) in gateways {
        text.sample("seawall_http_sources_kept", &[("gateway", name)], watch.sources_kept() as f64);
    }
}

pub(super) fn of_lines(text: &mut Exposition, gateways: &[(String, LinesWatch)]) {
    if gateways.is_empty() {
        return;
    }
    let all: Vec<_> = gateways.iter().map(|(name, watch)| (name, watch.stats())).collect();
    let mut family = |name: &str, kind, help, value: fn(&crate::node::LinesStats) -> u64| {
        let name = format!("seawall_lines_{name}");
        text.family(&name, kind, help);
        for (gateway, stats) in &all {
            text.sample(&name, &[("gateway", gateway)], value(stats) as f64);
        }
    };
    family("connections", "gauge", "Connections at this moment.", |stats| stats.connections);
    family("lines_total", "counter", "Lines handed to the receiver.", |stats| stats.lines);
    family("dropped_total", "counter", "Lines that were too long and dropped.", |stats| stats.dropped);
    family("refused_total", "counter", "Connections ended for what they sent, or because it was not taken.", |stats| {
        stats.refused
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_numbers_written_whole() {
        let mut text = Exposition::default();
        text.sample("m", &[("a", "x\"y\\z\n"), ("b", "")], 1.0);
        text.counter("c_total", "Help.", 12_345_678_901);
        let summary = Summary { count: 2, sum: 30, p50: 10, p99: 20, max: 20 };
        text.summary("s_seconds", "Help.", &summary, MICROS);
        assert_eq!(
            text.finish(),
            "m{a=\"x\\\"y\\\\z\\n\",b=\"\"} 1\n\
             # HELP c_total Help.\n# TYPE c_total counter\nc_total 12345678901\n\
             # HELP s_seconds Help.\n# TYPE s_seconds summary\n\
             s_seconds{quantile=\"0.5\"} 0.00001\ns_seconds{quantile=\"0.99\"} 0.00002\ns_seconds{quantile=\"1\"} 0.00002\n\
             s_seconds_sum 0.00003\ns_seconds_count 2\n"
        );
    }
}
