"""Each secret rule with an example that it finds and a counter-example that no rule touches."""

import time

import pytest

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.services import secrets
from hivemind_pipelines.services.secrets import entropy, is_placeholder, load_rules, rules_fingerprint
from hivemind_pipelines_tests.services.fake_secrets import fake, uuid

UUID = uuid()
PEM = "PRIVATE KEY-----"

#: rule: (example, counter-example), as templates of fake().
TABLE: dict[str, tuple[str, str]] = {
    "private-key": (
        f"-----BEGIN RSA {PEM}\n{{b:64}}\n{{b:30}}==\n-----END RSA {PEM}",
        "-----BEGIN PUBLIC KEY-----\n{b:64}\n-----END PUBLIC KEY-----",
    ),
    "private-key-base64": ("LS0tLS1CRUdJT{A:60}", "The dump begins with LS0tLS1CRUdJT and is base64."),
    "der-private-key-base64": ("MIIEpAIBAAK{b:200}", "A certificate begins with MIID."),
    "putty-key": ("Private-Lines: 2\n{b:64}\n{b:40}", "Private-Lines: 2"),
    "age-key": ("AGE-SECRET-KEY-1{U:58}", "Keep AGE-SECRET-KEY-1... out of git."),
    "jwk": (
        '{"kty": "EC", "crv": "P-256", "d": "{A:43}"}'.replace('{"', '{ "'),
        '{ "kty": "EC", "crv": "P-256" }',
    ),
    "hex-private-key": ("key 0x{h:64}", "address 0x{h:8}"),
    "jwt": ("eyJ{A:30}.eyJ{A:40}.{A:43}", "A JWT looks like eyJhbGciOi... in three parts."),
    "jwe-or-encoded-token": ("eyJ{A:80}", "eyJ is base64 of an opening brace."),
    "aws-access-key-id": ("AKIA{Q:16}", "AKIA is the prefix of a key id."),
    "aws-secret-key": ("aws_secret_access_key = {b:40}", "aws_secret_access_key = <your secret key>"),
    "aws-bedrock-key": ("ABSK{b:120}", "ABSK-short"),
    "aws-mws": (f"amzn.mws.{UUID}", "amzn.mws.token"),
    "aws-appsync": ("da2-{a:26}", "da2-short"),
    "aws-session-token": ("IQoJb3JpZ2lu{b:100}", "IQoJb3JpZ2lu..."),
    "aws-signature": ("https://s3/x?X-Amz-Signature={h:64}", "https://s3/x?X-Amz-Signature=SIGNATURE"),
    "gcp-api-key": ("AIza{A:35}", "AIza-prefix"),
    "gcp-oauth-secret": ("GOCSPX-{A:28}", "GOCSPX-..."),
    "gcp-oauth-token": ("ya29.{A:60}", "ya29.<token>"),
    "gcp-refresh-token": ("1//0{A:60}", "see 1//0 in the docs"),
    "azure-ad-secret": ("{A:3}8Q~{A:34}", "abc8Q~short"),
    "azure-storage-key": ("AccountKey={b:86}==", "AccountKey=<key>"),
    "azure-sas": ("https://x/y?sv=1&sig={A:43}%3D", "https://x/y?sv=1&sig=..."),
    "azure-devops": ("{A:76}AZDO{A:4}", "AZDO errors"),
    "azure-devops-pat": ('ado_pat = "{q:52}"', 'ado_pat = "<pat>"'),
    "azure-apim": ("Ocp-Apim-Subscription-Key: {h:32}", "Ocp-Apim-Subscription-Key: <key>"),
    "alibaba": ("LTAI{A:20}", "LTAI"),
    "tencent": ("AKID{A:32}", "AKID"),
    "digitalocean": ("dop_v1_{h:64}", "dop_v1_"),
    "scaleway-or-ibm-context": (f"SCW_SECRET_KEY={UUID}", "SCW_SECRET_KEY=$SECRET"),
    "yandex": ("AQVN{A:36}", "AQVN"),
    "heroku": (f"HRKU-{UUID}", "HRKU-"),
    "fly": ("fo1_{A:43}", "fo1_short"),
    "vercel": ("vcp_{A:40}", "vcp_short"),
    "netlify": ("nfp_{A:36}", "nfp_short"),
    "supabase": ("sbp_{h:40}", "sbp_short"),
    "cloudflare": ("v1.0-{h:24}-{h:146}", "v1.0-beta"),
    "databricks": ("dapi{h:32}", "dapi tools"),
    "planetscale": ("pscale_tkn_{A:43}", "pscale_tkn_"),
    "snowflake-or-clickhouse": ("4b1d{A:38}", "4b1d"),
    "terraform": ("{A:14}.atlasv1.{A:67}", "x.atlasv1.short"),
    "vault": ("hvs.{A:40}", "hvs.short"),
    "doppler": ("dp.pt.{A:43}", "dp.pt.short"),
    "pulumi": ("pul-{h:40}", "pul-short"),
    "1password": ("ops_eyJ{A:120}", "ops_eyJ..."),
    "dynatrace": ("dt0c01.{U:24}.{U:64}", "dt0c01.short"),
    "mongodb-atlas": ("mdb_sa_sk_{A:40}", "mdb_sa_sk_"),
    "github": ("ghp_{A:36}", "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    "github-fine-grained": ("github_pat_{A:22}_{A:59}", "github_pat_<token>"),
    "github-app-token": ("v1.{h:40}", "v1.2.3"),
    "gitlab": ("glpat-{A:20}", "glpat-xxxxxxxxxxxxxxxxxxxx"),
    "gitlab-other": ("GR1348941{A:20}", "GR1348941"),
    "bitbucket": ("ATBB{A:32}", "ATBB"),
    "atlassian": ("ATATT3{A:180}", "ATATT3..."),
    "npm": ("npm_{A:36}", "npm_config_registry"),
    "npm-auth": ("//registry/:_authToken={A:36}", "//registry/:_authToken=${NPM_TOKEN}"),
    "pypi": ("pypi-AgE{A:160}", "pypi-AgE..."),
    "rubygems": ("rubygems_{h:48}", "rubygems_version"),
    "nuget": ("oy2{a:43}", "oy2"),
    "clojars": ("CLOJARS_{h:60}", "CLOJARS_TOKEN"),
    "docker-hub": ("dckr_pat_{A:27}", "dckr_pat_"),
    "artifactory": ("AKCp{B:69}", "AKCp"),
    "circleci": ("CCIPAT_{A:40}", "CCIPAT_"),
    "buildkite": ("bkua_{h:40}", "bkua_"),
    "sonar": ("sqp_{h:40}", "sqp_"),
    "sourcegraph": ("sgp_{h:40}", "sgp_"),
    "travis-or-secure": ('secure: "{b:120}"', 'secure: "true"'),
    "prefect": ("pnu_{A:36}", "pnu_"),
    "slack": ("xoxb-{d:12}-{d:12}-{A:24}", "xoxb-xxxxxxxxxxxx-xxxxxxxxxxxx"),
    "slack-webhook": (
        "https://hooks.slack.com/services/T{U:8}/B{U:8}/{A:24}",
        "https://hooks.slack.com/services/...",
    ),
    "discord-webhook": (
        "https://discord.com/api/webhooks/{d:18}/{A:68}",
        "https://discord.com/api/webhooks/ID/TOKEN",
    ),
    "discord-bot": ("M{A:23}.{A:6}.{A:30}", "MyClass.method.attribute"),
    "teams-webhook": (
        f"https://x.webhook.office.com/webhookb2/{UUID}@{UUID}/IncomingWebhook/{{h:32}}",
        "https://x.webhook.office.com/webhookb2/...",
    ),
    "zapier-webhook": (
        "https://hooks.zapier.com/hooks/catch/{d:7}/{a:7}/",
        "https://hooks.zapier.com/hooks/catch/",
    ),
    "telegram": ("{d:10}:{A:35}", "12:30:45"),
    "twilio": ("SK{h:32}", "SKU 1234"),
    "sendgrid": ("SG.{A:22}.{A:43}", "SG.short"),
    "mailgun": ("key-{h:32}", "key-value pairs"),
    "mailchimp": ("{h:32}-us12", "en-us1"),
    "brevo": ("xkeysib-{h:64}-{A:16}", "xkeysib-"),
    "facebook": ("EAA{A:120}", "EAA"),
    "twitter-bearer": ("AAAAAAAAAAAAAAAAAAAAA{A:80}", "AAAAAAAAAAAAAAAAAAAAAAAA"),
    "twitch": ("oauth:{a:30}", "oauth:token"),
    "twitch-stream": ("live_{d:9}_{A:30}", "live_reload_1"),
    "teamwork": ("tkn.v1_{A:72}=", "tkn.v1_"),
    "clickup": ("pk_{d:7}_{U:32}", "pk_id"),
    "maxmind": ("{A:6}_{A:29}_mmk", "key_mmk"),
    "nightfall": ("NF-{A:32}", "NF-1"),
    "intra42": ("s-s4t2ud-{h:64}", "s-s4t2ud-"),
    "wechat": ("wx{h:16}", "wxPython"),
    "pubnub": (f"sub-c-{UUID}", "sub-c-"),
    "recaptcha": ("6L{A:38}", "6L"),
    "mysql-hash": ("IDENTIFIED BY PASSWORD '*{H:40}'", "SELECT * FROM users"),
    "network-credential": ('new NetworkCredential("bob", "{A:12}")', "new NetworkCredential(user, password)"),
    "zoho": ("1000.{h:32}.{h:32}", "1000.50 USD"),
    "salesforce": ("00D{A:15}!{A:90}", "00D0"),
    "stripe": ("sk_live_{A:24}", "sk_live_..."),
    "stripe-webhook": ("whsec_{A:32}", "whsec_..."),
    "square": ("sq0atp-{A:22}", "sq0atp-"),
    "paypal-braintree": ("access_token$production${a:16}${h:32}", "access_token$production$"),
    "shopify": ("shpat_{h:32}", "shpat_"),
    "flutterwave": ("FLWSECK_TEST-{h:32}-X", "FLWSECK_TEST-"),
    "razorpay": ("rzp_live_{A:14}", "rzp_live_"),
    "shippo": ("shippo_live_{h:40}", "shippo_live_"),
    "easypost": ("EZAK{A:54}", "EZAK"),
    "adyen": ("AQEyhmf{A:60}", "AQEyhmf"),
    "anthropic": ("sk-ant-api03-{A:90}", "sk-ant-..."),
    "openai": ("sk-proj-{A:60}", "sk-learn and sk-image"),
    "hugging-face": ("hf_{A:34}", "hf_hub_download"),
    "groq": ("gsk_{A:52}", "gsk_"),
    "xai": ("xai-{A:80}", "xai-org"),
    "perplexity": ("pplx-{A:48}", "pplx-7b-online"),
    "replicate": ("r8_{A:37}", "r8_unorm"),
    "tavily": ("tvly-{A:32}", "tvly-"),
    "nvidia": ("nvapi-{A:64}", "nvapi-"),
    "langsmith": ("lsv2_pt_{h:32}_{h:10}", "lsv2_pt_"),
    "pinecone": ("pcsk_{A:60}", "pcsk_"),
    "elevenlabs": ("sk_{h:48}", "sk_buff"),
    "fireworks-or-friendli": ("fw_{A:24}", "fw_version"),
    "airtable": ("pat{A:14}.{h:64}", "path.to.file"),
    "contentful": ("CFPAT-{A:43}", "CFPAT-"),
    "figma": ("figd_{A:40}", "figd_"),
    "linear": ("lin_api_{A:40}", "lin_api_"),
    "notion": ("ntn_{d:11}{A:35}", "secret_manager_client"),
    "hubspot": (f"pat-na1-{UUID}", "pat-na1-"),
    "postman": ("PMAK-{h:24}-{h:34}", "PMAK-"),
    "new-relic": ("NRAK-{U:27}", "NRAK-"),
    "grafana": ("glsa_{A:32}_{h:8}", "glsa_"),
    "sentry": ("sntrys_{A:80}", "sntrys_"),
    "sentry-dsn": ("https://{h:32}@o1.ingest.sentry.io/2", "https://key@sentry.io/1"),
    "launchdarkly": (f"sdk-{UUID}", "sdk-version"),
    "mapbox": ("sk.eyJ{A:60}.{A:22}", "sk.py"),
    "dropbox": ("sl.{A:130}", "sl.short"),
    "readme": ("rdme_{a:70}", "rdme_"),
    "typeform": ("tfp_{A:44}", "tfp_"),
    "voiceflow": ("VF.DM.{h:24}.{A:16}", "VF.DM."),
    "okta-sws": ("Authorization: SSWS {A:42}", "Authorization: SSWS ${api_token}"),
    "algolia-or-codecov-context": (f"CODECOV_TOKEN={UUID}", "CODECOV_TOKEN=${{ secrets.CODECOV_TOKEN }}"),
    "wundergraph-or-cosmo": ("cosmo_{h:32}", "cosmo_"),
    "random-token": ("the value was {A:40} today", "the commit was {h:40} today"),
    "wireguard": ("PrivateKey = {b:43}=", "PrivateKey = <private key>"),
    "bitwarden-or-otp": ("otpauth://totp/x:y?secret={Q:32}", "otpauth://totp/Example:alice"),
    "password-hash": ("$2b$12${A:53}", "$2b$ is the prefix of bcrypt"),
    "shadow-hash": ("pbkdf2_sha256$600000${A:22}${b:43}=", "pbkdf2_sha256 is the default"),
    "url-credentials": ("postgresql://app:{A:12}@db:5432/x", "postgresql://user:password@localhost:5432/x"),
    "authorization-header": ("Authorization: Bearer {A:40}", "Authorization: Bearer <token>"),
    "connection-string-password": (
        '"Server=x;User=y;Password={A:12};"',
        '"Server=x;User=y;Password=${PASSWORD};"',
    ),
    "sql-password": ("ALTER USER a WITH PASSWORD '{A:12}'", "ALTER USER a WITH PASSWORD 'password'"),
    "sql-password-bare": ("CREATE USER a IDENTIFIED BY {A:12};", "CREATE USER a IDENTIFIED BY password;"),
    "curl-user": ("curl -u admin:{A:12} https://host", "curl -u user:password https://host"),
    "curl-option": ('CURLOPT_USERPWD, "admin:{A:12}"', 'CURLOPT_USERPWD, "user:password"'),
    "password-flag": ("sshpass -p {A:12} ssh host", "sshpass -p $SSHPASS ssh host"),
    "net-user": ("net user bob {A:12} /add", "net user bob * /add"),
    "secure-string": (
        'ConvertTo-SecureString "{A:14}" -AsPlainText',
        "ConvertTo-SecureString $plain -AsPlainText",
    ),
    "netrc": ("machine host login bob password {A:12}", "machine host login bob password <password>"),
    "assigned-password": ('db_password: "{A:12}"', 'db_password: "changeme"'),
    "password-option": ("tool --password {A:12}", "tool --password password"),
    "assigned-token": ('{ "api_key": "{A:32}" }', '{ "api_key": "your-api-key-goes-here" }'),
    "named-token": ("the acme SECRET {a:32}", "the acme secret is rotated every month"),
    "azure-app-configuration": (
        "Endpoint=https://acme.azconfig.io;Id=ab1-l0-s0:{A:20};Secret={b:43}=",
        "Endpoint=<endpoint>;Id=<id>;Secret=<secret>",
    ),
    "tenant-endpoint": ("psql -h reports.c1xyz.eu-west-1.rds.amazonaws.com", "see https://docs.okta.com/x"),
    "account-before-password": (
        "User ID=svc_billing;Database=x;Password={A:12};",
        "User ID=<user>;Password=<password>;",
    ),
    "account-and-quoted-password": (
        '$user = "billing7"; $password = "{L:9}";',
        "$user = $argv[1]; $password = $argv[2];",
    ),
    "account-in-call": ('new NetworkCredential("bob", "{A:12}")', "new NetworkCredential(user, password)"),
    "account-option": (
        "psexec \\\\host -u admin2 -p {A:10} cmd",
        "psexec \\\\host -u $user -p $password cmd",
    ),
    "account-variable": ("export SMTP_USERNAME=jdoe42", "export SMTP_USERNAME=$USER"),
    "stated-password": ("The default password is 'tr{a:6}'.", "The password is <password>."),
    "named-value": (
        "- name: DB_PASSWORD\n  value: {A:12}",
        "- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:",
    ),
    "default-of-variable": ('os.getenv("DB_PASSWORD", "{A:10}")', 'os.getenv("DB_PASSWORD", "")'),
    "default-of-process-variable": ("process.env.API_TOKEN || '{A:20}'", "process.env.API_TOKEN || ''"),
    "assigned-default": ('SECRET = os.getenv("X", "{A:10}")', 'SECRET = os.getenv("X", None)'),
    "compared-password": ('if password == "{A:9}":', "if password == confirmation:"),
    "generated-password": (
        """jwt_secret: "7`D'}{A:6})T;W\\\\5]{A:6};_&k>qX??]\"""",
        'jwt_secret: "${JWT_SECRET}"',
    ),
    "key-as-bytes": (
        "Secret: []byte{ {d:2}, {d:2}, 100, 114, 245, 164, 134, 217,225,26,0, 172, 39, 248 }",
        "keys: [1, 2, 3]",
    ),
    "provider-and-token": ("weatherbit {h:32}", "weatherbit returns the forecast of 16 days"),
    "provider-and-named-key": ("myintervals_key = {a:11}", "myintervals_key = os.environ['KEY']"),
    "fullstory": ("na1.{b:80}", "na1.example"),
    "salt": ('salt = "{A:6}#!{A:6}"', "salt = os.urandom(16)"),
    "random-token-in-parts": ("the value was {A:60}.{A:60}.{A:40} today", "com.example.project.module.Class"),
    "token-in-query": ("https://x/y?access_token={A:30}", "https://x/y?access_token=TOKEN"),
    "tool-password": (
        "redis-cli -h cache -a {A:12} ping",
        "docker login --username bob --password-stdin registry.acme.io",
    ),
    "windows-password-switch": (
        "xfreerdp /v:host /u:bob /p:{A:12}",
        "schtasks /query /fo LIST /p password",
    ),
    "password-after-user": (
        "rabbitmqctl add_user bob {A:12}",
        "rabbitmqctl change_password user new_password",
    ),
    "account-and-password-at-host": (
        "secretsdump.py acme/bob:{A:12}@10.0.0.4",
        "mssqlclient.py domain/username:password@10.0.0.4, then rsync bob@host.acme.io:dir",
    ),
    "piped-password": ("echo 'bob:{A:12}' | chpasswd", "echo password | docker login --password-stdin"),
    "keystore-password": ("keytool -storepass {A:12} -list", "keytool -storepass changeit -list"),
    "password-directive": ("requirepass {A:12}", "requirepass foobared, or enable secret sharing"),
    "token-directive": ("ENV API_KEY {A:24}", "ENV API_KEY $API_KEY"),
    "network-passphrase": ('psk="{A:12}"', 'psk="passphrase"'),
    "password-in-call": ('config.setPassword("{A:12}")', 'config.setPassword("password")'),
    "account-and-password-in-call": (
        'requests.get(url, auth=("bob", "{A:12}"))',
        'requests.get(url, auth=("user", "password"))',
    ),
    "database-call": (
        'mysqli_connect("localhost", "bob", "{A:12}", "app")',
        'mysqli_connect("localhost", "user", "password", "app")',
    ),
    "signing-call": (
        "jwt.sign(payload, '{A:12}')",
        "crypto.createHmac('sha256', key); jwt.decode(token, algorithms=['HS256'])",
    ),
    "client-of-one-token": ("Client('{A:24}')", "Client('https://api.acme.io/v1/organisations')"),
    "nested-value": (
        'variable "db_password" {\n  type = string\n  default = "{A:12}"\n}'.replace("{\n", "{ \n"),
        'variable "db_password" { \n  default = "changeme"\n}',
    ),
    "password-element": (
        "<AdminPassword><Value>{A:12}</Value></AdminPassword>",
        "<AdminPassword><Value>$PASSWORD</Value></AdminPassword>",
    ),
    "token-element": ("<ApiKey>{h:32}</ApiKey>", "<key>CFBundleShortVersionString</key>"),
    "password-in-table": ("**Password:** {A:12}", "| password | string | required |"),
    "pgpass": ("db.acme.io:5432:app:bob:{A:12}", "hostname:5432:database:username:password"),
    "told-login": ("log in as bob / {A:12}", "log in as admin / superuser, or use the account page / form"),
    "token-as-url-user": ("git clone https://{A:40}@acme.io/a/b", "ssh://deploy-user-of-the-host@acme.io"),
    "token-in-path": ("https://acme.io/hooks/{A:24}", "https://acme.io/docs/auth/how-to-create-a-new-token"),
    "prefixed-token": ("tok_{A:24}", "add_index_to_users_and_organisations_table"),
    "otp-seed": ("{Q:32}", "THISISNOTABASE32SEEDBUTASENTENCE"),
    "aws-account": ("AWS_ACCOUNT_ID=4{d:11}", "AWS_ACCOUNT_ID=xxxxxxxxxxxx"),
    "azure-directory": (f'tenant_id: "{UUID}"', 'tenant_id: "${TENANT_ID}"'),
    "account-in-connection-string": (
        "Server=db;Port=5432;User Id=username;Password=secret;",
        "Server=<server>;User Id=<user>;Password=<password>;",
    ),
    "password-in-connection-string": (
        "Server=db;Port=5432;User Id=username;Password=secret;",
        "Server=$HOST;User Id=$USER;Password=$PASSWORD;",
    ),
    "account-in-credentials-block": (
        "credentials { \n  username 'bob'\n  password 'secret'\n}",
        "credentials { \n  username = props.getProperty('user')\n}",
    ),
    "password-in-credentials-block": (
        "credentials { \n  username 'bob'\n  password 'secret'\n}",
        'credentials { \n  password "$PASSWORD"\n}',
    ),
    "domain-account-option": (
        "psexec \\\\host -u ACME\\jdoe -p $password cmd",
        "psexec \\\\host -u domain\\username -p $password cmd",
    ),
}


def find_secrets(text: str) -> list[Finding]:
    return secrets.find_secrets(text, load_rules())


def test_every_rule_has_its_row():
    assert [rule.id for rule in load_rules() if rule.id not in TABLE] == []
    assert sorted(TABLE) == sorted(rule.id for rule in load_rules())


@pytest.mark.parametrize("rule_id", sorted(TABLE))
def test_rule_finds_its_example(rule_id):
    [rule] = [rule for rule in load_rules() if rule.id == rule_id]
    for seed in range(3):
        example = f"Before.\n{fake(TABLE[rule_id][0], seed)}\nAfter."
        assert list(rule.spans(example))


@pytest.mark.parametrize("rule_id", sorted(TABLE))
def test_counter_example_is_left_alone(rule_id):
    text = f"Before.\n{fake(TABLE[rule_id][1])}\nAfter."
    assert [text[found.start : found.end] for found in find_secrets(text)] == []


@pytest.mark.parametrize(
    "value",
    [
        *(
            "<token>",
            "<your-api-key>",
            "[PASSWORD]",
            "{{ secret }}",
            "${VAR}",
            "$(cat key)",
            "$TOKEN",
            "%(pass)s",
        ),
        *("xxxx", "xxxx-xxxx", "XXXXXXXXXXXX", "********", "aaaa", "...", "abc...", "0000000000000000"),
        *(
            "changeme",
            "change-me",
            "password",
            "Password1",
            "secret",
            "example",
            "your_password",
            "YOUR-TOKEN",
        ),
        *(
            "None",
            "null",
            "true",
            "my password",
            "insert your key here",
            "<REDACTED>",
            "@password@",
            "#{secret}",
        ),
    ],
)
def test_placeholder_is_no_secret(value):
    assert is_placeholder(value)
    assert find_secrets(f'password = "{value}"') == []


@pytest.mark.parametrize("template", ["{A:20}", "{h:32}", "P{a:6}!x", "{b:40}", "Tr0ub4dor&3"])
def test_real_value_is_no_placeholder(template):
    assert not is_placeholder(fake(template))


#: The same password in the places where people leave it.
PLACES = (
    "password={p}",
    "PASSWORD='{p}'",
    "export DB_PASSWORD={p}",
    "password: {p}",
    '"password": "{p}",',
    "'passwd' => '{p}',",
    'passwd := "{p}"',
    'String password = "{p}";',
    'let password: String = "{p}";',
    "const dbPassword = `{p}`;",
    'if (password == "{p}") {',
    "  - POSTGRES_PASSWORD={p}",
    "<password>{p}</password>",
    "spring.datasource.password={p}",
    "mysql://root:{p}@10.0.0.4/app",
    "amqp://user:{p}@rabbit:5672",
    "ansible_ssh_pass={p}",
    "pw: {p}",
    "The password is '{p}'.",
    "```sh\nexport PGPASSWORD={p}\n```",
    "run it with `--password={p}` once",
    '{\\"password\\": \\"{p}\\"}',
    "plink -ssh bob@host -pw {p}",
    "mosquitto_pub -h mqtt -u bob -P {p} -t x",
    "smbclient //srv/share -U bob%{p}",
    "docker login -u bob -p {p} registry.acme.io",
    "openssl genrsa -aes256 -passout pass:{p} 4096",
    "7z a -p{p} backup.7z dir",
    "htpasswd -b .htpasswd bob {p}",
    'echo "{p}" | passwd --stdin bob',
    "ldapsearch -x -D cn=admin,dc=acme -w {p} -b dc=acme",
    "net use Z: \\\\srv\\share {p} /user:bob",
    "sqlplus bob/{p}@orcl",
    "jdbc:oracle:thin:bob/{p}@h:1521:x",
    "az login --service-principal -u id -p {p} --tenant t",
    "lftp -u bob,{p} ftp.acme.io",
    "http -a bob:{p} https://host",
    "ENV DB_PASSWORD {p}",
    "rootpw --plaintext {p}",
    "username admin password 0 {p}",
    "snmp-server community {p} RO",
    "new PDO($dsn, 'bob', '{p}');",
    'DriverManager.getConnection(url, "bob", "{p}");',
    "HTTPBasicAuth('bob', '{p}')",
    "basic_auth 'bob', '{p}'",
    'server.login("bob@acme.io", "{p}")',
    'const PASSWORD: &str = "{p}";',
    'const PASSWORD: &\'static str = "{p}";',
    'jwt.encode(payload, "{p}", algorithm="HS256")',
    '"password": {"value": "{p}"}',
    "| password | {p} |",
    "login: bob / {p}",
    "credentials: bob:{p}",
)


#: The same token in the places where people leave it.
TOKEN_PLACES = (
    "https://host/x?code={t}",
    "https://host/hooks/{t}",
    "https://host/token/{t}/x",
    'apiKey={"{t}"}',
    "client.login('{t}')",
    "bot.run('{t}')",
    "<token>{t}</token>",
    "APP_KEY=base64:{t}",
    "git clone https://{t}@github.com/a/b",
    "session_id={t}",
    "its key is `{t}`",
    "acme_{t}",
    "TWITTER_ID:               '{t}'",
)


@pytest.mark.parametrize("place", PLACES)
def test_password_is_found_wherever_it_is_left(place):
    password = fake("{A:6}!{A:7}")
    text = place.replace("{p}", password)
    found = find_secrets(text)
    assert any(f.start <= text.index(password) and text.index(password) + 14 <= f.end for f in found), text


@pytest.mark.parametrize("place", TOKEN_PLACES)
def test_token_is_found_wherever_it_is_left(place):
    token = fake("{A:28}")
    text = place.replace("{t}", token)
    found = find_secrets(text)
    assert any(f.start <= text.index(token) and text.index(token) + 28 <= f.end for f in found), text


@pytest.mark.parametrize(
    "text",
    [
        "Set a password with `passwd username`.",
        "The token bucket refills every second; key=value pairs are kept.",
        "password = os.environ['DB_PASSWORD']",
        "token = request.headers.get('X-Token')",
        "const apiKey = process.env.API_KEY;",
        "api_key: ${{ secrets.API_KEY }}",
        "git checkout 3f786850e387550fdab836ed7e6dc881de23001b",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        '"integrity": "sha512-' + "A1b2" * 21 + '=="',
        "kubectl get secret my-secret -o jsonpath='{.data.password}'",
        "docker run -e POSTGRES_PASSWORD=password postgres",
        "public_key = 'ssh-ed25519'",
        "primary_key=True, foreign_key=user_id",
        "secret_key = generate_secret_key()",
        "See https://example.com/docs/api-keys#how-to-create-api-keys-for-your-account",
        "key: getAuthenticationTokenFromRequest",
        "auth: required, cookie: SameSite=Strict",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "docker run -p 8080:80 -e MODE=dev acme/app:1.2",
        "mysql -P 3306 -h host, then redis-cli -a password ping",
        "docker login --username username --password password server",
        "nxc smb 192.168.178.2 -u path/to/usernames.txt -p path/to/passwords.txt",
        "xfreerdp /u:username /p:password /v:ip_address",
        "rsync -av bob@host.acme.io:/srv/data . and scp a.txt bob@10.0.0.4:dir",
        "crypto.createHmac('sha256', secret).update(body)",
        "const client = new Client({ connectionString: url })",
        "add_column_to_organisations_20230101120000.rb",
        "The key to auth/session handling is the token/refresh pair.",
        "S3 answered with request id 4GHB3YX6DQHYTCPF in the log",
        "<key>CFBundleIdentifier</key><string>com.acme.app</string>",
    ],
)
def test_technical_text_is_left_alone(text):
    assert [text[found.start : found.end] for found in find_secrets(text)] == []


def test_private_key_is_taken_with_its_whole_body():
    key = fake(TABLE["private-key"][0])
    text = f"Key:\n{key}\nDone."
    assert any(text[f.start : f.end] == key and f.type == "PRIVATE_KEY" for f in find_secrets(text))


def test_truncated_private_key_is_taken_to_the_end():
    text = fake(f"-----BEGIN {PEM}\n{{b:64}}\n{{b:50}}")
    assert max(found.end for found in find_secrets(text)) == len(text)


def test_two_secrets_on_a_line_are_both_found():
    one, two = fake("{A:16}", 1), fake("{A:16}", 2)
    text = f"password={one} token={two}"
    found = {text[f.start : f.end] for f in find_secrets(text)}
    assert {one, two} <= found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a" * 100_000,
            "a1" * 50_000,
            "password=" * 10_000,
            "x" * 50_000 + "@",
            "-----BEGIN PRIVATE KEY" * 2_000,
        ),
        *(
            "$" * 50_000,
            "eyJ" * 30_000,
            "://" * 30_000,
            "key: " + "a-" * 40_000,
            "_-" * 50_000,
            "secret " * 12_000,
        ),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_takes_no_more_than_seconds(text):
    began = time.process_time()
    find_secrets(text)
    assert time.process_time() - began < 5.0


def test_entropy_is_that_of_shannon():
    assert entropy("") == 0.0
    assert entropy("aaaa") == 0.0
    assert entropy("abcd") == pytest.approx(2.0)


def test_fingerprint_of_the_rules_is_stable():
    assert rules_fingerprint() == rules_fingerprint()
    assert len(rules_fingerprint()) == 16
