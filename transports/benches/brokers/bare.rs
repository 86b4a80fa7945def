//! What a program does that uses a client itself: each message confirmed, handed out, acknowledged.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use mqtt5::mqttbytes::QoS;
use mqtt5::{AckMode, AsyncClient, Event, MqttOptions, Packet, PublishOptions};
use onward_transports::queue::conformance::fresh_mailbox;
use onward_trials::{Server, ServerKind};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd, pipe};
use tokio::task::JoinSet;

use crate::{MESSAGES, PREFETCH, body, heard};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Messages a second through the bare client for this server.
pub(crate) async fn rate(kind: ServerKind, server: &Server) -> f64 {
    let name = fresh_mailbox().to_string();
    let rate = match kind {
        ServerKind::Nats => nats(server, name).await,
        ServerKind::Redis => redis_streams(server, name).await,
        ServerKind::Mosquitto => mqtt(server, name).await,
        ServerKind::RabbitMq => amqp(server, name).await,
    };
    rate.unwrap_or_else(|error| panic!("{kind:?}: {error}"))
}

async fn nats(server: &Server, name: String) -> Result<f64, Failed> {
    use async_nats::jetstream::{self, consumer, stream};
    let context = jetstream::new(async_nats::connect(server.url()).await?);
    let config = stream::Config {
        name: name.clone(),
        subjects: vec![format!("bare.{name}")],
        retention: stream::RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    let stream = context.get_or_create_stream(config).await?;
    let config = consumer::pull::Config {
        durable_name: Some(name.clone()),
        max_ack_pending: PREFETCH as i64,
        ..consumer::pull::Config::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let (subject, body) = (format!("bare.{name}"), body());
    let publish = move || {
        let (context, subject, body) = (context.clone(), subject.clone(), body.clone());
        async move {
            let confirmed = async { Ok::<_, Failed>(context.publish(subject, body).await?.await?) };
            drop(confirmed.await.unwrap_or_else(|error| panic!("{error}")));
        }
    };
    let consume = async move {
        let mut telling = JoinSet::new();
        for _ in 0..MESSAGES {
            let message = messages.next().await.unwrap_or_else(|| panic!("no more messages"));
            let message = message.unwrap_or_else(|error| panic!("{error}"));
            telling.spawn(async move { message.double_ack().await });
            while let Some(told) = telling.try_join_next() {
                heard(told);
            }
        }
        telling.join_all().await.into_iter().for_each(|told| told.unwrap_or_else(|error| panic!("{error}")));
    };
    Ok(crate::rate(publish, consume).await)
}

async fn redis_streams(server: &Server, key: String) -> Result<f64, Failed> {
    const GROUP: &str = "bare";
    let client = redis::Client::open(server.url())?;
    let connection = client.get_multiplexed_async_connection().await?;
    let mut first = connection.clone();
    let mut make = cmd("XGROUP");
    make.arg("CREATE").arg(&key).arg(GROUP).arg("0").arg("MKSTREAM");
    make.query_async::<()>(&mut first).await?;
    // One that reads may wait longer than others for their answers.
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    let mut reading = client.get_multiplexed_async_connection_with_config(&patient).await?;
    let (body, stream, acknowledging) = (body(), key.clone(), connection.clone());
    let publish = move || {
        let (mut connection, body, key) = (connection.clone(), body.clone(), key.clone());
        async move {
            let mut add = cmd("XADD");
            add.arg(&key).arg("*").arg("b").arg(&body[..]);
            add.query_async::<()>(&mut connection).await.unwrap_or_else(|error| panic!("{error}"));
        }
    };
    let consume = async move {
        let mut telling = JoinSet::new();
        let mut count = 0;
        while count < MESSAGES {
            let mut read = cmd("XREADGROUP");
            read.arg("GROUP").arg(GROUP).arg(GROUP).arg("COUNT").arg(PREFETCH).arg("BLOCK").arg(1000);
            read.arg("STREAMS").arg(&stream).arg(">");
            let said: Value = read.query_async(&mut reading).await.unwrap_or_else(|error| panic!("{error}"));
            for id in identifiers(said) {
                count += 1;
                telling.spawn(acknowledge(acknowledging.clone(), stream.clone(), id));
            }
            while let Some(told) = telling.try_join_next() {
                heard(told);
            }
        }
        telling.join_all().await.into_iter().for_each(|told| told.unwrap_or_else(|error| panic!("{error}")));
    };
    return Ok(crate::rate(publish, consume).await);

    async fn acknowledge(
        mut connection: MultiplexedConnection,
        stream: String,
        id: String,
    ) -> redis::RedisResult<()> {
        let mut commands = pipe();
        commands.cmd("XACK").arg(&stream).arg(GROUP).arg(&id).cmd("XDEL").arg(&stream).arg(&id);
        commands.query_async(&mut connection).await
    }
}

/// The identifiers of the entries that came of one stream.
fn identifiers(said: Value) -> Vec<String> {
    type Entries = Vec<(String, Value)>;
    let streams: Vec<(String, Entries)> = redis::from_redis_value(said).unwrap_or_default();
    streams.into_iter().flat_map(|(_, entries)| entries).map(|(id, _)| id).collect()
}

async fn amqp(server: &Server, queue: String) -> Result<f64, Failed> {
    let connection =
        lapin::Connection::connect(&server.url(), lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, arguments).await?;
    let consuming = connection.create_channel().await?;
    consuming.basic_qos(PREFETCH as u16, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        consuming.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
    let body = body();
    let publish = move || {
        let (channel, body, queue) = (channel.clone(), body.clone(), queue.clone());
        async move {
            let properties = lapin::BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let confirmed = async {
                channel
                    .basic_publish("".into(), queue.as_str().into(), options, &body, properties)
                    .await?
                    .await
            };
            drop(confirmed.await.unwrap_or_else(|error| panic!("{error}")));
        }
    };
    let consume = async move {
        for _ in 0..MESSAGES {
            let delivery = consumer.next().await.unwrap_or_else(|| panic!("no more messages"));
            let delivery = delivery.unwrap_or_else(|error| panic!("{error}"));
            let told = delivery.acker.ack(BasicAckOptions::default()).await;
            assert!(told.is_ok(), "{told:?}");
        }
    };
    Ok(crate::rate(publish, consume).await)
}

async fn mqtt(server: &Server, name: String) -> Result<f64, Failed> {
    let connect = |role: &str| -> Result<(AsyncClient, mqtt5::EventLoop), Failed> {
        let url = server.url();
        let place = url.trim_start_matches("mqtt://").split_once(':').ok_or("no port")?;
        let place = mqtt5::Broker::tcp(place.0, place.1.parse()?);
        let mut options = MqttOptions::new(format!("{name}-{role}"), place);
        if role == "consumer" {
            options.set_clean_start(false);
            options.set_session_expiry_interval(Some(3600));
            options.set_receive_maximum(Some(PREFETCH as u16));
            options.set_ack_mode(AckMode::Manual);
        }
        Ok(AsyncClient::builder(options).capacity(256).build())
    };
    let topic = format!("bare/{name}");
    let (consumer, mut events) = connect("consumer")?;
    consumer.subscribe(&topic, QoS::AtLeastOnce).await?;
    while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let (producer, mut sending) = connect("producer")?;
    let polling = tokio::spawn(async move { while sending.poll().await.is_ok() {} });
    let (body, producer) = (body(), Arc::new(producer));
    let publish = move || {
        let (producer, topic, body) = (Arc::clone(&producer), topic.clone(), body.clone());
        async move {
            let options = PublishOptions::at_least_once();
            let notice = producer.publish_tracked(topic, body, options).await;
            let notice = notice.unwrap_or_else(|error| panic!("{error}"));
            drop(notice.wait_async().await.unwrap_or_else(|error| panic!("{error}")));
        }
    };
    let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let receiving = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(packed)) = event
                && sender.send(packed).is_err()
            {
                return;
            }
        }
    });
    let consume = async move {
        for _ in 0..MESSAGES {
            let packed = taken.recv().await.unwrap_or_else(|| panic!("no more messages"));
            consumer.ack(&packed).await.unwrap_or_else(|error| panic!("{error}"));
        }
    };
    let rate = crate::rate(publish, consume).await;
    polling.abort();
    receiving.abort();
    Ok(rate)
}
